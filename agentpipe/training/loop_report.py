"""LoopReport: what a trainer says of itself and its loop, with each beat of its lease."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from agentpipe.core.processes import stat_of
from agentpipe.core.timestamps import utc

if TYPE_CHECKING:
    from collections.abc import Mapping

# The rate is that of so many groups that were given last.
_RATED = 256


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """What does not change of a loop.

    Attributes:
        run: Of whose run its tasks are.
        prefix: What the ids of its groups begin with.
        batch: How many groups a step has; None where that differs.
    """

    run: str
    prefix: str
    collection: str
    policy: str | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class LoopProgress:
    """How far a loop is.

    Attributes:
        step: The number of the next batch.
        sent: Groups that were sent, over all starts.
        out: Those of them that are not over.
        used: Groups that this trainer was given.
        wasted: Those that were over and not given.
        counts: Both, by what became of them; see ``GroupStream``.
        waits: Whether the trainer waits for a group; else it trains, or has not begun.
    """

    step: int = 0
    sent: int = 0
    out: int = 0
    used: int = 0
    wasted: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    waits: bool = False


class LoopReport:
    """Written by the trainer's thread, read by that of its lease."""

    def __init__(self, facts: LoopFacts | None = None) -> None:
        """Of a loop that begins now; without facts it says only who has it."""
        self._facts, self._since = facts, utc(time.time())
        self._progress, self._changed_at = LoopProgress(), time.monotonic()
        self._given_at: deque[float] = deque([time.monotonic()], _RATED)

    def note(self, progress: LoopProgress) -> None:
        """It is so far now."""
        now, before = time.monotonic(), self._progress
        if progress.waits != before.waits:
            self._changed_at = now
        self._given_at.extend([now] * min(_RATED, progress.used - before.used))
        self._progress = progress

    @property
    def waits_s(self) -> float:
        """For how long the trainer has waited for a group; 0 where it does not."""
        return time.monotonic() - self._changed_at if self._progress.waits else 0.0

    def encode(self) -> bytes:
        """The JSON object that ``KeepsLoops`` keeps; times are as long ago as it is old."""
        if self._facts is None:
            return orjson.dumps({**process(), "since": self._since})
        now, given_at = time.monotonic(), tuple(self._given_at)
        per_s = (len(given_at) - 1) / max(1e-3, now - given_at[0])
        state = {"state_s": round(now - self._changed_at, 1), "per_s": round(per_s, 6)}
        loop = {**asdict(self._facts), **asdict(self._progress), **state}
        return orjson.dumps({**process(), "since": self._since, **loop})


def process() -> dict[str, str | int]:
    """This one, for people, and for others of the same machine to see whether it has ended."""
    stat = stat_of(os.getpid())
    started = "" if stat is None else stat.started
    host = socket.gethostname()
    return {"host": host, "pid": os.getpid(), "started": started, "place": place()}


def place() -> str:
    """Where a pid means the same process: this boot, and its namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
