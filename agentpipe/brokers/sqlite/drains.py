"""Drains of the embedded store: marks of workers, and when a host or the broker was drained.

A mark is a row of ``pauses`` with the worker's name; a time is a counter with the host's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.drain_times import drain_times_us
from agentpipe.brokers.sqlite.queries import IS_DRAINING, counter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable


def drain(db: sqlite3.Connection, workers: Iterable[str]) -> None:
    """Mark those of these workers that are registered."""
    db.executemany(
        "INSERT OR IGNORE INTO pauses SELECT 'worker', name FROM workers WHERE name = ?",
        [(name,) for name in workers],
    )


def is_draining(db: sqlite3.Connection, worker: str) -> bool:
    """Whether this worker is marked to drain."""
    (found,) = db.execute(f"SELECT {IS_DRAINING.format('?')}", (worker,)).fetchone()
    return bool(found)


def note_drain(db: sqlite3.Connection, host: str | None) -> None:
    """Record a drain of this host, or of the broker if None; delete expired records."""
    now_us, oldest_us = drain_times_us()
    db.execute("DELETE FROM counters WHERE name GLOB 'drain *' AND value < ?", (oldest_us,))
    db.execute(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = max(value + 1, excluded.value)",
        (f"drain {host or ''}", now_us),
    )


def last_drain(db: sqlite3.Connection, host: str) -> int:
    """Return when the host or the broker was last drained, in Unix microseconds; 0 if expired."""
    _, oldest_us = drain_times_us()
    noted_us = max(counter(db, "drain "), counter(db, f"drain {host}"))
    return noted_us if noted_us >= oldest_us else 0
