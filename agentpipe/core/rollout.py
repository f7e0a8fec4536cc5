"""Rollout: the token ids of one run as its serving engine sampled them, for a trainer.

Tokenizing a trace's text again sometimes gives other ids, and a trainer would learn from tokens
that no model sampled. Anything that the engine did not report is recorded as a gap, never guessed.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.core.token_rows import TokenRows, Turn, Version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

FORMAT = 1
REQUIRE, TRY, OFF = "require", "try", "off"
RECORDS = (REQUIRE, TRY, OFF)
# How a model is asked for its next answer: with the messages of the conversation, or its token ids.
MESSAGES, TOKENS = "messages", "tokens"
MODES = (MESSAGES, TOKENS)
# Reasons for a gap: a response came without ids; the server refused to return ids; the record was
# cut to its sink's size limit; nothing of the run was recorded.
NO_TOKEN_IDS, IDS_REFUSED, CUT, UNRECORDED = "no_token_ids", "ids_refused", "cut", "unrecorded"

_recorder: ContextVar[Rollout | None] = ContextVar("agentpipe_rollout", default=None)


class Rollout:
    """Records the turns of one run as they end.

    Attributes:
        required: Whether a run without ids is useless.
        by_tokens: Whether to send ids to models that accept them.
    """

    def __init__(
        self,
        *,
        required: bool = False,
        by_tokens: bool = False,
        policy_version: str | int | None = None,
    ) -> None:
        """Start empty; ``policy_version`` applies to turns whose engine reports no version."""
        self.required, self.by_tokens = required, by_tokens
        self._policy_version = policy_version
        self._rows = TokenRows()
        self._turns = 0
        self._gaps: list[dict[str, Any]] = []
        self._of_gaps: list[Version] = []
        self._engine = self._model = ""

    def add(
        self,
        turn: Turn | None,
        *,
        engine: str,
        model: str,
        gap: str = NO_TOKEN_IDS,
        version: Version | None = None,
    ) -> None:
        """Record a response; ``turn`` is None for one without ids, and ``gap`` says why.

        ``version`` is the policy version at the time of the request, if known.
        """
        self._engine, self._model = engine, model
        version = self._policy_version if version is None else version
        if turn is None:
            self._gaps.append({"code": gap, "turn": self._turns})
            self._of_gaps += [] if version is None else [version]
        else:
            self._rows.add(_versioned(turn, version))
        self._turns += 1

    @property
    def is_exact(self) -> bool:
        """Whether every response of the run is recorded with its engine's ids."""
        return self._turns > 0 and not self._gaps

    def to_dict(self, stop: str) -> dict[str, Any]:
        """Return the ``rollout`` field of a Result; ``stop`` says why the run ended."""
        return {
            "version": FORMAT,
            "engine": self._engine,
            "model": self._model,
            "segments": [row.to_dict() for row in self._rows.rows],
            "exact": self.is_exact,
            "required": self.required,
            "masked": self._rows.masked,
            "versions": ends([*self._of_gaps, *self._rows.versions()]),
            "stop": stop,
            "gaps": self._gaps,
        }


def as_required(kept: Mapping[str, Any] | None, stop: str) -> dict[str, Any]:
    """Return the ``rollout`` of a run made before its collection required rollouts."""
    if kept is not None:
        return {**kept, "required": True}
    rollout = Rollout(required=True)
    rollout.add(None, engine="", model="", gap=UNRECORDED)
    return rollout.to_dict(stop)


def _versioned(turn: Turn, version: Version | None) -> Turn:
    """Fill in ``version`` for the tokens whose version the engine did not report."""
    if version is None:
        return turn
    said = sorted(turn.versions, key=lambda each: each[1])
    begins = [0, *(end for _, _, end in said)]
    stops = [*(begin for _, begin, _ in said), len(turn.token_ids)]
    rest = [(version, *each) for each in zip(begins, stops, strict=True) if each[0] < each[1]]
    return replace(turn, versions=sorted([*said, *rest], key=lambda each: each[1]))


class recording:  # noqa: N801 - reads as the function it is
    """Record turns within the block in ``rollout``, unless it is None."""

    __slots__ = ("_rollout", "_token")

    def __init__(self, rollout: Rollout | None) -> None:
        self._rollout = rollout
        self._token: Token[Rollout | None] | None = None

    def __enter__(self) -> None:
        if _recorder.get() is not self._rollout:
            self._token = _recorder.set(self._rollout)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _recorder.reset(self._token)


def recorder() -> Rollout | None:
    """Return the current run's rollout; None if nothing is recorded."""
    return _recorder.get()


def without_segments(rollout: dict[str, Any]) -> dict[str, Any]:
    """Return the rollout without token ids, for a sink that cannot take all of it."""
    return {**rollout, "segments": [], "exact": False, "gaps": [{"code": CUT, "turn": 0}]}


def tokens_of_segments(rollout: Mapping[str, Any]) -> list[int]:
    """Return the number of ids per segment of a rollout, which can come from foreign code."""
    segments = rollout.get("segments")
    found = segments if isinstance(segments, list) else []
    ids = (each.get("token_ids") if isinstance(each, dict) else None for each in found)
    return [len(each) if isinstance(each, list) else 0 for each in ids]


def ends(used: list[Version]) -> list[Version]:
    """Return the oldest and newest version: by number, or for names by order of use."""
    if all(isinstance(each, int) for each in used):
        used = sorted(used)
    return [used[0], used[-1]] if used else []
