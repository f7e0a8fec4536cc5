"""Loops of trainers, as those see them who look from elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.brokers.capabilities import KeepsLoops
from agentpipe.core.loop_holds import LEASE_S
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
    """A loop, and what its trainer has said last; None for what it has not.

    Attributes:
        run: Of whose run its tasks are.
        prefix: What the ids of its groups begin with.
        since: When this trainer has taken it, by its own clock.
        silent_s: For how long nothing was heard of it.
        state: Whether the trainer waits for groups or does something else; ``alive`` where it does
            not say; ``gone`` where it is silent for so long that another may take the loop.
        state_s: For how long that lasts.
        step: The number of the next batch, from 0.
        sent: Groups that were sent, over all its trainers.
        out: Those that are not over.
        used: Groups that this trainer was given.
        wasted: Those that were over and not given; ``counts`` says why, see ``GroupStream``.
        per_s: How many were given a second, of late.
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
        """As the broker keeps it; others may have written there, too."""
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
        """Which process the trainer is."""
        return f"process {self.pid} on {self.host!r}"

    @property
    def activity(self) -> str:
        """What it does, and for how long."""
        words = {"waits": "waits for groups", "gone": "trainer gone"}.get(self.state, self.state)
        return words if self.state_s is None else f"{words} {duration(self.state_s)}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``status``, ``top``, ``why`` and ``runs show``."""
        rounded = {"silent_s": round(self.silent_s, 3)}
        if self.state_s is not None:
            rounded["state_s"] = round(self.state_s, 3)
        return {**asdict(self), **rounded}


def loops_seen(states: Sequence[LoopState]) -> list[LoopSeen]:
    """Each of them."""
    return [LoopSeen.of(state) for state in states]


def loops_of_run(store: Store, run: str) -> list[LoopSeen]:
    """The run's loops that have a trainer, or had one that has not let them go."""
    states = store.loops() if isinstance(store, KeepsLoops) else ()
    return [loop for loop in loops_seen(states) if loop.run == run]


def loop_lines(loop: LoopSeen) -> Iterator[str]:
    """A loop for people."""
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
    """The loop that has sent a task, or a group; that of the longest prefix."""
    found = [it for it in loops if it.prefix and task_id.startswith(it.prefix)]
    return max(found, key=lambda it: len(it.prefix or ""), default=None)


def _text(value: Any) -> str | None:
    return one_line(value, MAX_CHARS) if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None
