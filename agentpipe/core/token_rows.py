"""Token rows: join the turns of a run into append-only rows of token ids.

A prompt that starts with all ids of a row continues that row. If the prompt differs only within the
end of the last sampled part, that end is overwritten as context: the chat template tokenized the
same text differently. Any other prompt starts a new row: after a compaction, from a sub-agent, or
when the same prompt is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Maximum number of sampled tokens at the end of a row that a prompt can overwrite.
REALIGN_TOKENS = 1_024
LOGPROB_DIGITS = 6

Version = str | int


@dataclass(frozen=True, slots=True)
class Turn:
    """One response of a model, in its serving engine's own token ids.

    Attributes:
        logprobs: One per entry of ``token_ids``.
        span: Id of its span in the trace.
        finish: The engine's finish reason.
        versions: Policy versions, each with the range of ``token_ids`` that it sampled.
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    span: str = ""
    finish: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    versions: Sequence[tuple[Version, int, int]] = ()


@dataclass(slots=True)
class TokenRow:
    """An append-only row of token ids.

    Attributes:
        sampled: Ranges sampled by the model, end exclusive; everything else is context.
        logprobs: One per sampled token.
        of: The row that this one forked from, and where; None if it starts from nothing.
    """

    token_ids: list[int] = field(default_factory=list)
    sampled: list[tuple[int, int]] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    of: dict[str, Any] | None = None

    def add(self, turn: Turn, kept: int) -> int:
        """Continue after the first ``kept`` ids; return how many sampled ids were overwritten."""
        lost = self._cut(kept)
        self.token_ids += turn.prompt_ids[kept:]
        at = len(self.token_ids)
        self.token_ids += turn.token_ids
        self.sampled.append((at, len(self.token_ids)))
        self.logprobs += [round(each, LOGPROB_DIGITS) for each in turn.logprobs]
        self.turns.append(_described(turn, at))
        return lost

    def _cut(self, kept: int) -> int:
        lost = len(self.token_ids) - kept
        if lost <= 0:
            return 0
        del self.token_ids[kept:]
        del self.logprobs[len(self.logprobs) - lost :]
        start, _ = self.sampled.pop()
        if start < kept:
            self.sampled.append((start, kept))
        last = self.turns[-1]
        spans = [(version, first, min(end, kept)) for version, first, end in last["versions"]]
        last["versions"] = [each for each in spans if each[1] < each[2]]
        return lost

    def versions(self) -> list[Version]:
        """The versions that sampled this row, in order of use."""
        return [each[0] for turn in self.turns for each in turn["versions"]]

    def to_dict(self) -> dict[str, Any]:
        """The row as a segment of a Result's rollout."""
        return {
            "token_ids": self.token_ids,
            "sampled": self.sampled,
            "logprobs": self.logprobs,
            "turns": self.turns,
            "of": self.of,
        }


class TokenRows:
    """All rows of one run; memory grows only with what is new in each turn.

    Attributes:
        masked: Number of sampled tokens that were overwritten.
    """

    def __init__(self) -> None:
        self.rows: list[TokenRow] = []
        self.masked = 0

    def versions(self) -> list[Version]:
        """The versions that sampled these rows."""
        return [version for row in self.rows for version in row.versions()]

    def add(self, turn: Turn) -> None:
        """Append the turn to the row that it continues, or start a new row."""
        common = [_common(row.token_ids, turn.prompt_ids) for row in self.rows]
        found = max(
            (n for n, row in enumerate(self.rows) if _continues(row, turn, common[n])),
            key=lambda n: common[n],
            default=None,
        )
        if found is None:
            self.rows.append(TokenRow(of=_fork(turn, common)))
            found = len(self.rows) - 1
            common.append(0)
        self.masked += self.rows[found].add(turn, common[found])


def _continues(row: TokenRow, turn: Turn, common: int) -> bool:
    over = len(row.token_ids) - common
    if over > 0 and common == len(turn.prompt_ids):
        return False  # The same prompt was sent again: keep both responses.
    return over <= min(REALIGN_TOKENS, row.sampled[-1][1] - row.sampled[-1][0])


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Return the length of the common prefix, by bisection, since slices compare fast."""
    low, high = 0, min(len(held), len(prompt))
    if held[:high] == prompt[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if held[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _fork(turn: Turn, common: Sequence[int]) -> dict[str, Any] | None:
    at = max(common, default=0)
    why = "resample" if at == len(turn.prompt_ids) else "rewrite"
    return {"segment": common.index(at), "at": at, "why": why} if at else None


def _described(turn: Turn, at: int) -> dict[str, Any]:
    return {
        "span": turn.span,
        "at": at,
        "finish": turn.finish,
        "temperature": turn.temperature,
        "top_p": turn.top_p,
        "versions": [(version, at + first, at + end) for version, first, end in turn.versions],
    }
