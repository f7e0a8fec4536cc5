"""Tallies of the embedded store: what each queue's settled tasks add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import Tally
from agentpipe.connections.sqlite_rows import execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.records import Settlement

_NOTHING = Tally()
_UPSERT = (
    "INSERT INTO tallies SELECT qid, column1, column2, column3, column4, column5, column6, column7"
    " FROM (VALUES {}) JOIN queues ON name = column8 WHERE true"
    " ON CONFLICT (qid) DO UPDATE SET done = done + excluded.done,"
    " failed = failed + excluded.failed, evaluated = evaluated + excluded.evaluated,"
    " passed = passed + excluded.passed, usd = usd + excluded.usd,"
    " error = iif(excluded.failed_at IS NULL, error, excluded.error),"
    " failed_at = coalesce(excluded.failed_at, failed_at)"
)
_SUM = "SELECT sum(done), sum(failed), sum(evaluated), sum(passed), sum(usd) FROM tallies"


def add_to_tallies(db: sqlite3.Connection, settlements: Iterable[Settlement], now: float) -> None:
    """Add the settlements to their queues' tallies, with one statement.

    Args:
        db: The connection, in the transaction that settles.
        settlements: Those that took effect.
        now: The store's time, which dates their errors.
    """
    tallies: dict[str, Tally] = {}
    for each in settlements:
        tally = Tally.of(each)
        if tally != _NOTHING:
            tallies[each.claim.queue] = tallies.get(each.claim.queue, _NOTHING) + tally
    execute_rows(db, _UPSERT, [_row(name, tally, now) for name, tally in tallies.items()])


def _row(queue: str, tally: Tally, now: float) -> tuple[Any, ...]:
    failed_at = None if tally.error_s is None else now
    counts = (tally.done, tally.failed, tally.evaluated, tally.passed, tally.usd)
    return (*counts, tally.error, failed_at, queue)


def read_sum(db: sqlite3.Connection) -> Tally:
    """Return the sum of all queues' tallies, without an error."""
    return tally_of(db.execute(_SUM).fetchone())


def tally_of(columns: Sequence[Any]) -> Tally:
    """Build a tally from its columns, in order; they are NULL if nothing was settled."""
    return _NOTHING if columns[0] is None else Tally(*columns)
