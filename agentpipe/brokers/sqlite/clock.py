"""The embedded store's clock: Unix time, unaffected by changes of the machine's clock.

Delays, cooldowns and retention times end by this clock. It is the kernel's time since boot, which
all processes share, plus an offset that the first process after a boot stores in the file. After a
boot it starts at the wall clock, but never before the latest settlement.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.brokers.sqlite.queries import counter

if TYPE_CHECKING:
    from agentpipe.connections.sqlite import Database
    from agentpipe.connections.sqlite_snapshots import Snapshots

# Keeps running while the machine sleeps, unlike the monotonic clock on Linux.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PREFIX = "clock:"
_LATEST = "SELECT max(settled_at) FROM tasks WHERE state = 3"


class StoreClock:
    """The clock of one store. Thread-safe; reading it never blocks."""

    def __init__(self, offset_s: float) -> None:
        self._offset_s = offset_s

    @classmethod
    def of(cls, database: Database) -> StoreClock:
        """Return the file's clock; start it if this is the first process since boot."""
        boot = _boot_id()
        if not boot:
            return cls(_offset_s(0.0))
        with database.read() as db:
            found = counter(db, _PREFIX + boot)
        return cls((found or _begin(database, boot)) / 1e6)

    @classmethod
    def watching(cls, database: Snapshots) -> StoreClock:
        """Return the file's clock without starting it, for readers."""
        with database.read() as db:
            found = counter(db, _PREFIX + _boot_id())
        return cls(found / 1e6 if found else _offset_s(0.0))

    def now(self) -> float:
        """Return seconds, close to Unix time unless the machine's clock was wrong or changed."""
        return _since_boot() + self._offset_s

    def as_wall(self, moment: float) -> float:
        """Convert a moment of this clock to Unix time; the difference is in whole seconds."""
        return moment + round(time.time() - self.now())


def _begin(database: Database, boot: str) -> int:
    with database.write() as db:
        # Another process may have been quicker.
        if not counter(db, _PREFIX + boot):
            (latest,) = db.execute(_LATEST).fetchone()
            db.execute("DELETE FROM counters WHERE name LIKE ?", (f"{_PREFIX}%",))
            row = (_PREFIX + boot, round(_offset_s(latest or 0.0) * 1e6))
            db.execute("INSERT INTO counters VALUES (?, ?)", row)
        return counter(db, _PREFIX + boot)


def _offset_s(latest: float) -> float:
    return max(time.time(), latest) - _since_boot()


def _since_boot() -> float:
    return time.clock_gettime(_SINCE_BOOT)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # Not Linux: each process starts at the wall clock.
        return ""
