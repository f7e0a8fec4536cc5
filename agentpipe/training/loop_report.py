"""LoopReport: a trainer's status report, sent with each heartbeat of its lease."""

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

# The rate is computed over at most this many most recent groups.
_RATED = 256


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """The constant facts of a loop.

    Attributes:
        run: The run that its tasks belong to.
        prefix: The prefix of its groups' ids.
        batch: How many groups a step has; None if that varies.
    """

    run: str
    prefix: str
    collection: str
    policy: str | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class LoopProgress:
    """A loop's progress.

    Attributes:
        step: The number of the next batch.
        sent: Groups sent, over all starts.
        out: Sent groups that are not over.
        used: Groups that this trainer received.
        wasted: Groups that are over but were not yielded.
        counts: Used and wasted groups by fate; see ``GroupStream``.
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
    """Written by the trainer's thread, read by the lease's thread."""

    def __init__(self, facts: LoopFacts | None = None) -> None:
        """Report on a loop that starts now; without facts it names only the process."""
        self._facts, self._since = facts, utc(time.time())
        self._progress, self._changed_at = LoopProgress(), time.monotonic()
        self._given_at: deque[float] = deque([time.monotonic()], _RATED)

    def note(self, progress: LoopProgress) -> None:
        """Record the current progress."""
        now, before = time.monotonic(), self._progress
        if progress.waits != before.waits:
            self._changed_at = now
        self._given_at.extend([now] * min(_RATED, progress.used - before.used))
        self._progress = progress

    @property
    def waits_s(self) -> float:
        """How long the trainer has been waiting for a group, in seconds; 0 if it is not."""
        return time.monotonic() - self._changed_at if self._progress.waits else 0.0

    def encode(self) -> bytes:
        """The JSON object stored by ``KeepsLoops``; its durations count back from this call."""
        if self._facts is None:
            return orjson.dumps({**process(), "since": self._since})
        now, given_at = time.monotonic(), tuple(self._given_at)
        per_s = (len(given_at) - 1) / max(1e-3, now - given_at[0])
        state = {"state_s": round(now - self._changed_at, 1), "per_s": round(per_s, 6)}
        loop = {**asdict(self._facts), **asdict(self._progress), **state}
        return orjson.dumps({**process(), "since": self._since, **loop})


def process() -> dict[str, str | int]:
    """This process, for people, and for processes on the same machine to check if it is alive."""
    stat = stat_of(os.getpid())
    started = "" if stat is None else stat.started
    host = socket.gethostname()
    return {"host": host, "pid": os.getpid(), "started": started, "place": place()}


def place() -> str:
    """The scope in which a pid is unique: boot id and pid namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
