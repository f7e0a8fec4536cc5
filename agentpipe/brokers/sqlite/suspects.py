"""Suspects: tasks with ``max_crashes: 1`` that ran beside others when their worker died.

One of them may have killed it, but which one is unknown, and a single counted crash ends a task. So
none of them counts the crash. Each then runs alone in a worker: another crash is certainly its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.records import Worker

_SUSPECTS = "FROM tasks t JOIN queues q USING (qid) WHERE t.last_chance = 1 AND q.max_crashes = 1"
# Like COUNT_CRASH, for several tasks of which any may be to blame.
COUNT_SHARED_CRASH = (
    "SET crashes = crashes + (max_crashes > 1),"
    " last_chance = (max_crashes = 1 OR crashes + 2 = max_crashes) FROM queues q"
    " WHERE q.qid = tasks.qid"
)
# The next tasks of a queue, without suspects. Tasks in their last chance only for a worker that
# holds none.
SELECT_CLAIMABLE = (
    "SELECT seq, last_chance, id FROM tasks WHERE qid = ? AND state = 0"
    " AND (last_chance = 0"
    " OR ((SELECT max_crashes FROM queues q WHERE q.qid = tasks.qid) > 1 AND NOT EXISTS"
    " (SELECT 1 FROM tasks l WHERE l.last_chance = 1 AND l.state = 2 AND l.worker = ?)))"
    " ORDER BY priority, seq LIMIT ?"
)


class Suspect(NamedTuple):
    """A task that can only be claimed alone."""

    seq: int
    qid: int
    queue: str
    task_id: str


def next_suspect(db: sqlite3.Connection, worker: Worker) -> Suspect | None:
    """Return the next suspect that this worker can claim; None if there is none."""
    found = db.execute(
        f"SELECT t.seq, q.qid, q.name, t.id {_SUSPECTS} AND t.state = 0 AND q.ready"
        " AND (q.gate IS NULL"
        " OR (SELECT running < capacity FROM gates g WHERE g.name = q.gate))"
        " ORDER BY t.priority, t.seq"
    )
    return next((Suspect(*row) for row in found if row[2] in worker.queues), None)


def holds_suspect(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether the worker runs a suspect, beside which it must run nothing else."""
    query = f"SELECT 1 {_SUSPECTS} AND t.state = 2 AND t.worker = ? LIMIT 1"
    return db.execute(query, (worker.name,)).fetchone() is not None


def is_idle(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether the worker holds nothing."""
    query = "SELECT 1 FROM tasks WHERE state = 2 AND worker = ? LIMIT 1"
    return db.execute(query, (worker.name,)).fetchone() is None


def must_become_idle(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether this worker must claim nothing until it can run a suspect.

    One worker per set of queues is chosen. Otherwise a busy fleet would never run a suspect.
    """
    (first,) = db.execute(
        "SELECT min(p.name) FROM workers w JOIN workers p USING (serves) WHERE w.name = ?",
        (worker.name,),
    ).fetchone()
    return bool(first == worker.name)
