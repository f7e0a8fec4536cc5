"""Loops of trainers, as observed from elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.brokers.capabilities import KeepsLoops
from agentpipe.core.loop_holds import LEASE_S
from agentpipe.core.numbers import is_integer, is_number
from agentpipe.core.text import duration, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.core.loop_holds import LoopState

Doing = Literal["waits", "trains", "alive", "gone"]
_DOING: dict[Any, Doing] = {True: "waits", False: "trains", None: "alive"}
MAX_CHARS = 80


@dataclass(frozen=True, slots=True)
class LoopSeen:
    """A loop, and the last report of its trainer; None for fields that it did not report.

    Attributes:
        run: The run that its tasks belong to.
        prefix: The prefix of its groups' ids.
        since: When this trainer took the loop, by its own clock.
        silent_s: Seconds since its last heartbeat.
        state: Whether the trainer waits for groups or trains; ``alive`` if it does not say;
            ``gone`` if it is silent for so long that another trainer can take the loop.
        state_s: How long it has been in that state.
        step: The number of the next batch, from 0.
        sent: Groups sent, over all its trainers.
        out: Sent groups that are not over.
        used: Groups that this trainer received.
        wasted: Groups that are over but were not yielded; ``counts`` says why, see
            ``GroupStream``.
        per_s: Groups received per second recently.
    """

    name: str
    run: str | None
    prefix: str | None
    collection: str | None
    policy: str | None
    host: str | None
    pid: int | None
    since: str | None
    silent_s: float
    state: Doing
    state_s: float | None
    batch: int | None
    step: int | None
    sent: int | None
    out: int | None
    used: int | None
    wasted: int | None
    counts: Mapping[str, int] = field(default_factory=dict)
    per_s: float | None = None

    @classmethod
    def of(cls, state: LoopState) -> LoopSeen:
        """Decode the broker's record, without trusting it: others can write there too."""
        said, silent_s = state.said, state.silent_s
        names = ("run", "prefix", "collection", "policy", "host", "since")
        given: dict[str, Any] = {name: _text(said.get(name)) for name in names}
        counted = ("pid", "batch", "step", "sent", "out", "used", "wasted")
        given |= {name: _whole(said.get(name)) for name in counted}
        counts = said.get("counts")
        lasts_s, waits = _number(said.get("state_s")), said.get("waits")
        is_gone = silent_s > LEASE_S
        return cls(
            name=one_line(state.name, MAX_CHARS),
            silent_s=silent_s,
            state="gone" if is_gone else _DOING[waits if isinstance(waits, bool) else None],
            state_s=silent_s if is_gone else None if lasts_s is None else lasts_s + silent_s,
            counts={
                one_line(fate, MAX_CHARS): number
                for fate, number in (counts.items() if isinstance(counts, dict) else ())
                if _whole(number) is not None
            },
            per_s=_number(said.get("per_s")),
            **given,
        )

    @property
    def holder(self) -> str:
        """The trainer's process, for people."""
        return f"process {self.pid} on {self.host!r}"

    @property
    def activity(self) -> str:
        """What the trainer does, and for how long."""
        words = {"waits": "waits for groups", "gone": "trainer gone"}.get(self.state, self.state)
        return words if self.state_s is None else f"{words} {duration(self.state_s)}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``status``, ``top``, ``why`` and ``runs show``."""
        rounded = {"silent_s": round(self.silent_s, 3)}
        if self.state_s is not None:
            rounded["state_s"] = round(self.state_s, 3)
        return {**asdict(self), **rounded}


def loops_seen(states: Sequence[LoopState]) -> list[LoopSeen]:
    """Decode each state."""
    return [LoopSeen.of(state) for state in states]


def loops_of_run(store: Store, run: str) -> list[LoopSeen]:
    """The run's loops that have a trainer, or whose trainer did not release them."""
    states = store.loops() if isinstance(store, KeepsLoops) else ()
    return [loop for loop in loops_seen(states) if loop.run == run]


def loop_lines(loop: LoopSeen) -> Iterator[str]:
    """Lines that describe a loop for people."""
    figures = [
        f"{name} {number:,}"
        for name in ("step", "out", "used", "wasted")
        if (number := getattr(loop, name)) is not None
    ]
    yield f"loop {loop.name}: {', '.join([loop.activity, *figures])}"
    since = "" if loop.since is None else f" since {loop.since[:19]}Z"
    yield f"  {loop.holder}{since}, heard {duration(loop.silent_s)} ago"
    if loop.state == "gone":
        yield "  start it again with the last state that it saved: groups that are out go on"


def loop_of(task_id: str, loops: Sequence[LoopSeen]) -> LoopSeen | None:
    """The loop that sent a task or a group: the one with the longest matching prefix."""
    found = [it for it in loops if it.prefix and task_id.startswith(it.prefix)]
    return max(found, key=lambda it: len(it.prefix or ""), default=None)


def _text(value: Any) -> str | None:
    return one_line(value, MAX_CHARS) if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if is_integer(value) and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) and value >= 0 else None
