"""Dead letters of the embedded store, and results that the sink refuses.

Each kind has a table of summaries, named after the kind, and a table of bodies.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.dead_letter import (
    DeadFilter,
    DeadLetter,
    DeadPage,
    DeadSummary,
    moment_us_of,
)
from agentpipe.core.groups import is_group_record

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.brokers.records import Refusal, Settlement
    from agentpipe.connections.sqlite import Database

DEAD, UNDELIVERABLE = "dead", "undeliverable"
_SUMMARY = "task_id, queue, collection, outcome, reason, died_us"
# SQL conditions by filter field; a query contains only those in use.
_CONDITIONS = {
    "collection": "collection = :collection",
    "outcome": "outcome = :outcome",
    "prefix": "substr(task_id, 1, length(:prefix)) = :prefix",
    "error": "instr(lower(reason), :error)",
    "since": "died_us >= :since",
    "until": "died_us < :until",
    "after": "died_us > :after",
}


def bury(db: sqlite3.Connection, seq: int, qid: int, settlement: Settlement) -> None:
    """Store an ended task and its Result as a dead letter."""
    task_id = settlement.claim.task_id
    drop(db, DEAD, [task_id])  # A forgotten id can be submitted, and die, again.
    died_us = _moment_us(db, DEAD)
    db.execute(
        "INSERT INTO dead SELECT ?, ?, name, collection, ?, ? FROM queues WHERE qid = ?",
        (died_us, task_id, settlement.outcome, settlement.reason, qid),
    )
    db.execute(
        "INSERT INTO dead_bodies SELECT ?, body, ? FROM payloads WHERE seq = ?",
        (died_us, settlement.result, seq),
    )


def set_aside(db: sqlite3.Connection, worker: str, refusals: Sequence[Refusal]) -> Counter[str]:
    """Move results that the worker has leased out of the outbox; returns counter changes."""
    changes: Counter[str] = Counter()
    for each in refusals:
        number = each.record.number
        lent = db.execute(
            "DELETE FROM outbox WHERE seq = ? AND taker = ? RETURNING bytes", (number, worker)
        ).fetchall()
        for (size,) in lent:
            moment_us = _moment_us(db, UNDELIVERABLE)
            fields = (each.record.task_id, each.queue, each.collection, each.outcome, each.reason)
            db.execute("INSERT INTO undeliverable VALUES (?, ?, ?, ?, ?, ?)", (moment_us, *fields))
            db.execute(
                "INSERT INTO undeliverable_bodies SELECT ?, x'', body FROM outbox_bodies"
                " WHERE seq = ?",
                (moment_us, number),
            )
            db.execute("DELETE FROM outbox_bodies WHERE seq = ?", (number,))
            records = db.execute("DELETE FROM group_records WHERE seq = ?", (number,)).rowcount
            changes.update({"outbox": -1, "outbox_bytes": -size, UNDELIVERABLE: 1 - records})
    return changes


def deliver_again(db: sqlite3.Connection, task_ids: Sequence[str]) -> Counter[str]:
    """Move results back into the outbox; returns counter changes."""
    changes: Counter[str] = Counter()
    for each in read(db, UNDELIVERABLE, task_ids):
        size = len(each.result)
        number = db.execute(
            "INSERT INTO outbox (task_id, bytes) VALUES (?, ?)", (each.task_id, size)
        ).lastrowid
        db.execute("INSERT INTO outbox_bodies VALUES (?, ?)", (number, each.result))
        of_group = is_group_record(each.result)
        if of_group:
            db.execute("INSERT INTO group_records VALUES (?)", (number,))
        changes.update({"outbox": 1, "outbox_bytes": size, UNDELIVERABLE: of_group - 1})
    drop(db, UNDELIVERABLE, task_ids)
    return changes


class SqliteLetters:
    """The letters of one kind; see ``KeepsDeadLetters``."""

    def __init__(self, database: Database, kind: str) -> None:
        self._database, self._kind = database, kind

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """Return a page of summaries, oldest first."""
        values = {**_values(wanted), "after": moment_us_of(after)}
        query = f"SELECT {_SUMMARY} FROM {self._kind}{_where(values)} ORDER BY died_us LIMIT :limit"
        with self._database.read() as db:
            rows = db.execute(query, {**values, "limit": limit + 1}).fetchall()
        letters = tuple(DeadSummary(*_fields(row)) for row in rows[:limit])
        more = len(rows) > limit > 0
        return DeadPage(letters, str(rows[limit - 1][-1]) if more else None)

    def count_dead(self, wanted: DeadFilter) -> int:
        """Count the matching letters."""
        values = _values(wanted)
        query = f"SELECT count(*) FROM {self._kind}{_where(values)}"
        with self._database.read() as db:
            (number,) = db.execute(query, values).fetchone()
        return int(number)

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Return the letters with these ids, with payloads and results."""
        with self._database.read() as db:
            return read(db, self._kind, task_ids)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Delete letters; returns how many existed."""
        with self._database.write() as db:
            return drop(db, self._kind, task_ids)


def read(db: sqlite3.Connection, kind: str, task_ids: Sequence[str]) -> list[DeadLetter]:
    """Return the letters with these ids, with payloads and results."""
    rows = db.execute(
        f"SELECT {_SUMMARY}, payload, result FROM {kind} JOIN {kind}_bodies USING (died_us)"
        " WHERE task_id IN (SELECT value FROM json_each(?)) ORDER BY died_us",
        (_json(task_ids),),
    )
    return [DeadLetter(*_fields(row), payload, result) for *row, payload, result in rows]


def drop(db: sqlite3.Connection, kind: str, task_ids: Sequence[str]) -> int:
    """Delete letters; returns how many existed."""
    gone = db.execute(
        f"DELETE FROM {kind} WHERE task_id IN (SELECT value FROM json_each(?)) RETURNING died_us",
        (_json(task_ids),),
    ).fetchall()
    db.executemany(f"DELETE FROM {kind}_bodies WHERE died_us = ?", gone)
    return len(gone)


def _moment_us(db: sqlite3.Connection, kind: str) -> int:
    """Return the current microsecond, or a later one if a letter already has it."""
    query = f"SELECT max(?, coalesce(max(died_us), 0) + 1) FROM {kind}"
    return int(db.execute(query, (time.time_ns() // 1_000,)).fetchone()[0])


def _fields(row: Sequence[Any]) -> tuple[str, str, str | None, str, str, float]:
    task_id, queue, collection, outcome, reason, died_us = row
    return task_id, queue, collection, outcome, reason, died_us / 1e6


def _values(wanted: DeadFilter) -> dict[str, Any]:
    """Return the parameters of the conditions in use."""
    values = {
        "collection": wanted.collection,
        "outcome": wanted.outcome,
        "prefix": wanted.prefix or None,
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


def _json(task_ids: Sequence[str]) -> str:
    return orjson.dumps(list(task_ids)).decode()
