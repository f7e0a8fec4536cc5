"""Breaker of the embedded store: counts the runs that are settled, in the same transaction."""

from __future__ import annotations

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
from agentpipe.brokers.sqlite.pauses import pause

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Settlement

_PAUSED_WITH_REASON = "SELECT name FROM pause_reasons WHERE kind = 'collection'"


def count_runs(
    db: sqlite3.Connection, settlements: Iterable[Settlement], *, has_streaks: bool
) -> list[Tripped]:
    """Count failed and successful runs in order; pause and return collections over their limit.

    Args:
        db: The connection, in the transaction that settles.
        settlements: Those that took effect.
        has_streaks: Whether any collection has failed runs in a row.
    """
    runs = [each for each in settlements if matters(each)]
    if not has_streaks and all(map(is_success, runs)):  # The common case.
        return []
    before = _streaks(db)
    after, reasons = _counted(before, runs, _collections(db, runs))
    _save(db, {name: streak for name, streak in after.items() if streak != before.get(name)})
    for name, reason in reasons.items():
        pause(db, [("collection", name)], reason)
    return [Tripped(*pair) for pair in reasons.items()]


def _counted(
    streaks: Mapping[str, Streak], runs: Sequence[Settlement], collections: Mapping[str, str]
) -> tuple[dict[str, Streak], dict[str, str]]:
    """Return the streaks after these runs, and why collections are to be paused."""
    after, reasons = dict(streaks), dict[str, str]()
    for run in runs:
        collection = collections.get(run.claim.queue)
        if collection is None or collection in reasons:
            continue
        streak = after[collection] = after.get(collection, Streak()).after(digest_of(run))
        if run.failure is not None and streak.failures >= run.failure.limit:
            reasons[collection] = reason_of(run)
            after[collection] = Streak()
    return after, reasons


def _streaks(db: sqlite3.Connection) -> dict[str, Streak]:
    rows = db.execute("SELECT collection, digest, failures FROM streaks")
    return {collection: Streak(*streak) for collection, *streak in rows}


def _collections(db: sqlite3.Connection, runs: Iterable[Settlement]) -> dict[str, str]:
    """Map each run's queue to its collection, unless the collection is paused with a reason."""
    queues = orjson.dumps(sorted({run.claim.queue for run in runs})).decode()
    rows = db.execute(
        "SELECT name, collection FROM queues WHERE name IN (SELECT value FROM json_each(?))"
        f" AND collection IS NOT NULL AND collection NOT IN ({_PAUSED_WITH_REASON})",
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
