"""The outbox of the embedded store: what a forwarder borrows, and what it has delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.records import OutboxRecord
from agentpipe.brokers.sqlite.groups import forget_records
from agentpipe.brokers.sqlite.tables import add_to_counters

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.records import Worker


def borrow(
    db: sqlite3.Connection, worker: Worker, limit: int, max_bytes: int
) -> list[OutboxRecord]:
    """Lend the oldest records that no worker has to this one."""
    rows = db.execute(
        "SELECT seq, task_id, bytes FROM outbox WHERE taker IS NULL ORDER BY seq LIMIT ?",
        (limit,),
    )
    taken = [(seq, task_id) for seq, task_id in _fitting(rows, max_bytes)]
    db.executemany(
        "UPDATE outbox SET taker = ? WHERE seq = ?", [(worker.name, seq) for seq, _ in taken]
    )
    return [OutboxRecord(seq, task_id, outbox_body(db, seq)) for seq, task_id in taken]


def drop(db: sqlite3.Connection, worker: Worker, numbers: Sequence[int]) -> None:
    """Forget delivered records.

    Only its borrower drops a record: after a lapsed lease that is another worker.
    """
    dropped = db.execute(
        "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?)) AND taker = ?"
        " RETURNING seq, bytes",
        (orjson.dumps(list(numbers)).decode(), worker.name),
    ).fetchall()
    db.executemany("DELETE FROM outbox_bodies WHERE seq = ?", [(seq,) for seq, _ in dropped])
    size = sum(size for _, size in dropped)
    results = len(dropped) - forget_records(db, [seq for seq, _ in dropped])
    add_to_counters(db, {"outbox": -len(dropped), "outbox_bytes": -size, "delivered": results})


def _fitting(rows: Iterable[tuple[int, str, int]], max_bytes: int) -> Iterable[tuple[int, str]]:
    """The first rows that fit into ``max_bytes`` together, at least one."""
    total = 0
    for seq, task_id, size in rows:
        if total and total + size > max_bytes:
            return
        total += size
        yield seq, task_id


def outbox_body(db: sqlite3.Connection, seq: int) -> bytes:
    """The payload of the Result."""
    (body,) = db.execute("SELECT body FROM outbox_bodies WHERE seq = ?", (seq,)).fetchone()
    return bytes(body)
