"""Dead letters of the embedded store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage, DeadSummary
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.brokers.records import Settlement

_SUMMARY = "task_id, queue, collection, outcome, reason, died_us"
# The condition of each part of a filter; only those in use reach the planner.
_CONDITIONS = {
    "collection": "collection = :collection",
    "outcome": "outcome = :outcome",
    "error": "instr(lower(reason), :error)",
    "since": "died_us >= :since",
    "until": "died_us < :until",
    "after": "died_us > :after",
}


def bury(db: sqlite3.Connection, seq: int, qid: int, settlement: Settlement) -> None:
    """Store a task that ends, with its Result."""
    task_id = settlement.claim.task_id
    drop(db, [task_id])  # A forgotten id may be sent, and die, again.
    (died_us,) = db.execute(
        "SELECT max(?, coalesce(max(died_us), 0) + 1) FROM dead", (time.time_ns() // 1_000,)
    ).fetchone()
    db.execute(
        "INSERT INTO dead SELECT ?, ?, name, collection, ?, ? FROM queues WHERE qid = ?",
        (died_us, task_id, settlement.outcome, settlement.reason, qid),
    )
    db.execute(
        "INSERT INTO dead_bodies SELECT ?, body, ? FROM payloads WHERE seq = ?",
        (died_us, settlement.result, seq),
    )


def page_of(db: sqlite3.Connection, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
    """A page of summaries, oldest first."""
    values = {**_values(wanted), "after": _number(after)}
    query = f"SELECT {_SUMMARY} FROM dead{_where(values)} ORDER BY died_us LIMIT :limit"
    rows = db.execute(query, {**values, "limit": limit + 1}).fetchall()
    letters = tuple(DeadSummary(*_fields(row)) for row in rows[:limit])
    more = len(rows) > limit > 0
    return DeadPage(letters, str(rows[limit - 1][-1]) if more else None)


def count_of(db: sqlite3.Connection, wanted: DeadFilter) -> int:
    """The number of matches."""
    values = _values(wanted)
    (number,) = db.execute(f"SELECT count(*) FROM dead{_where(values)}", values).fetchone()
    return int(number)


def read(db: sqlite3.Connection, task_ids: Sequence[str]) -> list[DeadLetter]:
    """The whole letters with these ids."""
    rows = db.execute(
        f"SELECT {_SUMMARY}, payload, result FROM dead JOIN dead_bodies USING (died_us)"
        " WHERE task_id IN (SELECT value FROM json_each(?)) ORDER BY died_us",
        (_json(task_ids),),
    )
    return [DeadLetter(*_fields(row), payload, result) for *row, payload, result in rows]


def drop(db: sqlite3.Connection, task_ids: Sequence[str]) -> int:
    """Delete letters; returns how many there were."""
    gone = db.execute(
        "DELETE FROM dead WHERE task_id IN (SELECT value FROM json_each(?)) RETURNING died_us",
        (_json(task_ids),),
    ).fetchall()
    db.executemany("DELETE FROM dead_bodies WHERE died_us = ?", gone)
    return len(gone)


def _fields(row: Sequence[Any]) -> tuple[str, str, str | None, str, str, float]:
    task_id, queue, collection, outcome, reason, died_us = row
    return task_id, queue, collection, outcome, reason, died_us / 1e6


def _values(wanted: DeadFilter) -> dict[str, Any]:
    """The parameters of the conditions in use."""
    values = {
        "collection": wanted.collection,
        "outcome": wanted.outcome,
        "error": wanted.folded_error or None,
        "since": _us(wanted.since),
        "until": _us(wanted.until),
    }
    return {name: value for name, value in values.items() if value is not None}


def _where(values: dict[str, Any]) -> str:
    return "".join(
        f" {'AND' if number else 'WHERE'} {_CONDITIONS[name]}" for number, name in enumerate(values)
    )


def _us(moment_s: float | None) -> int | None:
    return None if moment_s is None else round(moment_s * 1e6)


def _number(after: str) -> int:
    if after and not (after.isdecimal() and len(after) < 19):  # noqa: PLR2004 - 64 bits hold it
        raise ConfigError(f"{after[:40]!r} does not come from a page of this store's dead letters")
    return int(after or 0)


def _json(task_ids: Sequence[str]) -> str:
    return orjson.dumps(list(task_ids)).decode()
