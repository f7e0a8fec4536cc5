"""Pauses by operators and by the breaker, and drain marks of workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.breaker import (
    Streak,
    Tripped,
    digest_of,
    is_success,
    matters,
    reason_of,
)
from agentpipe.brokers.capabilities import DRAIN_NOTED_S
from agentpipe.brokers.sqlite.queries import IS_DRAINING, SET_PAUSES, counter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Settlement

_PAUSED_FOR_FAILURES = "SELECT name FROM pause_reasons WHERE kind = 'collection'"


def pause(db: sqlite3.Connection, names: Sequence[tuple[str, str]], reason: str) -> None:
    """Pause ``names``, pairs of kind (``queue`` or ``collection``) and name."""
    db.executemany("INSERT OR IGNORE INTO pauses VALUES (?, ?)", names)
    if reason:
        rows = [(kind, name, reason) for kind, name in names]
        db.executemany("INSERT OR REPLACE INTO pause_reasons VALUES (?, ?, ?)", rows)
    db.execute(SET_PAUSES)


def resume(db: sqlite3.Connection, names: Sequence[tuple[str, str]]) -> None:
    """Resume ``names``, and reset the streaks of the collections."""
    for table in ("pauses", "pause_reasons"):
        db.executemany(f"DELETE FROM {table} WHERE kind = ? AND name = ?", names)
    collections = [(name,) for kind, name in names if kind == "collection"]
    db.executemany("DELETE FROM streaks WHERE collection = ?", collections)
    db.execute(SET_PAUSES)


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
    now_us, oldest_us = _noted_us()
    db.execute("DELETE FROM counters WHERE name GLOB 'drain *' AND value < ?", (oldest_us,))
    db.execute(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = max(value + 1, excluded.value)",
        (f"drain {host or ''}", now_us),
    )


def last_drain(db: sqlite3.Connection, host: str) -> int:
    """Return when the host or the broker was last drained, in Unix microseconds; 0 if expired."""
    _, oldest_us = _noted_us()
    noted_us = max(counter(db, "drain "), counter(db, f"drain {host}"))
    return noted_us if noted_us >= oldest_us else 0


def _noted_us() -> tuple[int, int]:
    """Return the current time, and the time since which drains are remembered."""
    now_us = time.time_ns() // 1_000
    return now_us, now_us - int(DRAIN_NOTED_S * 1e6)


def count_runs(
    db: sqlite3.Connection, settlements: Iterable[Settlement], *, has_streaks: bool
) -> list[Tripped]:
    """Count failed and successful runs in order; pause and return collections over their limit."""
    runs = [each for each in settlements if matters(each)]
    if not has_streaks and all(map(is_success, runs)):  # The common case.
        return []
    before = _streaks(db)
    collections = _collections(db, runs)
    after, tripped = dict(before), dict[str, str]()
    for run in runs:
        collection = collections.get(run.claim.queue)
        if collection is None or collection in tripped:
            continue
        streak = after[collection] = after.get(collection, Streak()).after(digest_of(run))
        if run.failure is not None and streak.failures >= run.failure.limit:
            tripped[collection] = reason_of(run)
            after[collection] = Streak()
    _save(db, {name: streak for name, streak in after.items() if streak != before.get(name)})
    for name, reason in tripped.items():
        pause(db, [("collection", name)], reason)
    return [Tripped(*pair) for pair in tripped.items()]


def _streaks(db: sqlite3.Connection) -> dict[str, Streak]:
    rows = db.execute("SELECT collection, digest, failures FROM streaks")
    return {collection: Streak(*streak) for collection, *streak in rows}


def _collections(db: sqlite3.Connection, runs: Iterable[Settlement]) -> dict[str, str]:
    """Map each run's queue to its collection, unless the collection is paused with a reason."""
    queues = orjson.dumps(sorted({run.claim.queue for run in runs})).decode()
    rows = db.execute(
        "SELECT name, collection FROM queues WHERE name IN (SELECT value FROM json_each(?))"
        f" AND collection IS NOT NULL AND collection NOT IN ({_PAUSED_FOR_FAILURES})",
        (queues,),
    )
    return dict(rows.fetchall())


def _save(db: sqlite3.Connection, streaks: Mapping[str, Streak]) -> None:
    for collection, streak in streaks.items():
        if streak.failures:
            row = (collection, streak.digest, streak.failures)
            db.execute("INSERT OR REPLACE INTO streaks VALUES (?, ?, ?)", row)
        else:
            db.execute("DELETE FROM streaks WHERE collection = ?", (collection,))
