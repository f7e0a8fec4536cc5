"""Comparing: what a worker holds against what the file says that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import Comparison
from agentpipe.brokers.sqlite.outbox import free

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from agentpipe.brokers.records import Worker
    from agentpipe.connections.sqlite import Database

Key = tuple[str, int]


def compare(
    database: Database,
    worker: Worker,
    held: Collection[Key],
    forwarding: Collection[int] | None,
) -> Comparison:
    """See ``ComparesClaims.compare``; writes only if something differs."""
    mine = frozenset(held)
    with database.read() as db:
        known = _known(db, worker.name)
        lent = set() if forwarding is None else _lent(db, worker.name).difference(forwarding)
    if known is None:
        return Comparison()
    returned = freed = 0
    if known - mine or lent:
        with database.write(durable=False) as db:
            returned = sum(_put_back(db, worker.name, key) for key in known - mine)
            freed = free(db, worker.name, lent)
    return Comparison(mine - known, returned, freed)


def _known(db: sqlite3.Connection, name: str) -> frozenset[Key] | None:
    """Return the worker's claims; None if it has no lease."""
    if not db.execute("SELECT 1 FROM workers WHERE name = ?", (name,)).fetchone():
        return None
    found = db.execute("SELECT id, number FROM tasks WHERE state = 2 AND worker = ?", (name,))
    return frozenset((task_id, number) for task_id, number in found)


def _lent(db: sqlite3.Connection, name: str) -> set[int]:
    return {seq for (seq,) in db.execute("SELECT seq FROM outbox WHERE taker = ?", (name,))}


def _put_back(db: sqlite3.Connection, name: str, key: Key) -> int:
    """Requeue the task without counting a crash, if this claim is still current."""
    found = db.execute(
        "UPDATE tasks SET state = 0, worker = NULL"
        " WHERE id = ? AND number = ? AND state = 2 AND worker = ? RETURNING qid",
        (*key, name),
    ).fetchall()
    db.executemany(
        "UPDATE queues SET running = running - 1, waiting = waiting + 1 WHERE qid = ?", found
    )
    return len(found)
