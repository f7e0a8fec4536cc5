"""The outbox of the embedded store: results leased to forwarders and dropped on delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.records import OutboxRecord
from agentpipe.brokers.sqlite.groups import forget_records
from agentpipe.brokers.sqlite.queries import add_to_counters
from agentpipe.connections.sqlite_errors import is_of_disk
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.brokers.records import Worker
    from agentpipe.connections.sqlite import Database


# All bodies as one blob, with their sizes to split it.
_SELECT_RECORDS = (
    "SELECT json_group_array(json_array(seq, task_id, length(body))),"
    " CAST(group_concat(CAST(body AS TEXT), '') AS BLOB)"
    " FROM (SELECT seq, task_id, CAST(body AS BLOB) AS body FROM outbox JOIN outbox_bodies"
    " USING (seq) WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq)"
)


def borrow(db: sqlite3.Connection, worker: Worker, limit: int, max_bytes: int) -> list[int]:
    """Lease the oldest free records to this worker; returns their numbers."""
    (found,) = db.execute(
        "SELECT json_group_array(json_array(seq, bytes)) FROM (SELECT seq, bytes FROM outbox"
        " WHERE taker IS NULL ORDER BY seq LIMIT ?)",
        (limit,),
    ).fetchone()
    taken = list(_fitting(orjson.loads(found), max_bytes))
    db.execute(
        "UPDATE outbox SET taker = ? WHERE seq IN (SELECT value FROM json_each(?))",
        (worker.name, _json(taken)),
    )
    return taken


def borrowed(db: sqlite3.Connection, numbers: Sequence[int]) -> list[OutboxRecord]:
    """Return these records if they still exist, with one query, so others wait only once."""
    found, bodies = db.execute(_SELECT_RECORDS, (_json(numbers),)).fetchone()
    records, at = list[OutboxRecord](), 0
    for number, task_id, size in orjson.loads(found):
        records.append(OutboxRecord(number, task_id, bodies[at : at + size]))
        at += size
    return records


def free(db: sqlite3.Connection, worker: str, numbers: Iterable[int]) -> int:
    """End the worker's lease of these records; returns how many it had."""
    return db.execute(
        "UPDATE outbox SET taker = NULL"
        " WHERE taker = ? AND seq IN (SELECT value FROM json_each(?))",
        (worker, _json(numbers)),
    ).rowcount


def drop(
    database: Database,
    worker: Worker,
    numbers: Sequence[int],
    then: Callable[[sqlite3.Connection], None],
) -> None:
    """Delete delivered records, and call ``then`` in the same transaction.

    Only the worker that leased a record can drop it; after its lease expires, another may have it.
    On a full disk, records are dropped in ever smaller parts: the log has room for those.
    """
    try:
        with database.write(durable=False) as db:
            _drop(db, worker, numbers)
            then(db)
    except Unreachable as error:
        half = len(numbers) // 2
        if not half or not is_of_disk(error.__cause__):
            raise
        for part in (numbers[:half], numbers[half:]):
            drop(database, worker, part, then)


def _drop(db: sqlite3.Connection, worker: Worker, numbers: Sequence[int]) -> None:
    (found,) = db.execute(
        "SELECT json_group_array(json_array(seq, bytes)) FROM outbox"
        " WHERE seq IN (SELECT value FROM json_each(?)) AND taker = ?",
        (_json(numbers), worker.name),
    ).fetchone()
    dropped = dict(orjson.loads(found))
    for table in ("outbox", "outbox_bodies"):
        query = f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))"
        db.execute(query, (_json(dropped),))
    results = len(dropped) - forget_records(db, list(dropped))
    gone = {"outbox": -len(dropped), "outbox_bytes": -sum(dropped.values()), "delivered": results}
    add_to_counters(db, gone)


def _json(numbers: Iterable[int]) -> str:
    return orjson.dumps(list(numbers)).decode()


def _fitting(rows: Iterable[tuple[int, int]], max_bytes: int) -> Iterable[int]:
    """Yield the first rows that fit into ``max_bytes`` together, at least one."""
    total = 0
    for seq, size in rows:
        if total and total + size > max_bytes:
            return
        total += size
        yield seq
