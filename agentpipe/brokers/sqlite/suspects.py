"""Suspects: tasks with ``max_crashes: 1`` that ran beside others when their worker died.

One of them may have killed it; which, is not known, and a crash counted is the end. So none counts
it, and each runs alone in a worker: a crash of that is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.records import Worker

_SUSPECTS = "FROM tasks t JOIN queues q USING (qid) WHERE t.last_chance = 1 AND q.max_crashes = 1"
# As COUNT_CRASH, where it is not known which of several tasks is to blame.
COUNT_SHARED_CRASH = (
    "SET crashes = crashes + (max_crashes > 1),"
    " last_chance = (max_crashes = 1 OR crashes + 2 = max_crashes) FROM queues q"
    " WHERE q.qid = tasks.qid"
)
# The next tasks of a queue but for suspects; at most one per worker is in its last chance.
SELECT_CLAIMABLE = (
    "SELECT seq, last_chance, id FROM tasks WHERE qid = ? AND state = 0"
    " AND (last_chance = 0"
    " OR ((SELECT max_crashes FROM queues q WHERE q.qid = tasks.qid) > 1 AND NOT EXISTS"
    " (SELECT 1 FROM tasks l WHERE l.last_chance = 1 AND l.state = 2 AND l.worker = ?)))"
    " ORDER BY priority, seq LIMIT ?"
)


class Suspect(NamedTuple):
    """A task that may be claimed alone."""

    seq: int
    qid: int
    queue: str
    task_id: str


def next_suspect(db: sqlite3.Connection, worker: Worker) -> Suspect | None:
    """The suspect that waits for this worker; None without one."""
    found = db.execute(
        f"SELECT t.seq, q.qid, q.name, t.id {_SUSPECTS} AND t.state = 0 AND q.ready"
        " AND (q.gate IS NULL"
        " OR (SELECT running < capacity FROM gates g WHERE g.name = q.gate))"
        " ORDER BY t.priority, t.seq"
    )
    return next((Suspect(*row) for row in found if row[2] in worker.queues), None)


def holds_suspect(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether the worker runs one, and must run nothing beside it."""
    query = f"SELECT 1 {_SUSPECTS} AND t.state = 2 AND t.worker = ? LIMIT 1"
    return db.execute(query, (worker.name,)).fetchone() is not None


def is_idle(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether the worker holds nothing."""
    query = "SELECT 1 FROM tasks WHERE state = 2 AND worker = ? LIMIT 1"
    return db.execute(query, (worker.name,)).fetchone() is None


def must_become_idle(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether this is the one of its peers that claims nothing until it can run a suspect.

    Without it, no suspect would run in a fleet that always has other work.
    """
    (first,) = db.execute(
        "SELECT min(p.name) FROM workers w JOIN workers p USING (serves) WHERE w.name = ?",
        (worker.name,),
    ).fetchone()
    return bool(first == worker.name)
