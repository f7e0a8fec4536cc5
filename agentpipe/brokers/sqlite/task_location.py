"""Locating: what the embedded store knows about one task."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
from agentpipe.brokers.sqlite.budgets import spending_of
from agentpipe.brokers.sqlite.groups import group_seen
from agentpipe.brokers.sqlite.policies import pause_of, policy_ahead
from agentpipe.brokers.sqlite.queries import (
    DELAYED,
    PARKED_BY_POLICY,
    PAUSE_REASON,
    RUNNING,
    SELECT_WORKERS,
    WAITING,
    counter,
    worker_seen,
)
from agentpipe.brokers.sqlite.served import SELECT_SERVERS
from agentpipe.core.run_names import run_of

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.location import Place
    from agentpipe.brokers.sqlite.clock import StoreClock
    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.core.budgets import Spending

# Runs reported per agent or concurrency group.
MAX_RUNS = 20
_SELECT_TASK = (
    "SELECT seq, qid, state, priority, failures, crashes, cancelled, error, due, submitted_at,"
    " settled_at FROM tasks WHERE id = ?"
)
_SELECT_AGENT = (
    "SELECT name, collection, concurrency, waiting, held_until, gate,"
    " EXISTS (SELECT 1 FROM pauses p WHERE p.kind = 'queue' AND p.name = q.name),"
    " EXISTS (SELECT 1 FROM pauses p WHERE p.kind = 'collection' AND p.name = q.collection),"
    f" (SELECT capacity FROM gates g WHERE g.name = q.gate), run_s, {PAUSE_REASON.format('q')}"
    " FROM queues q WHERE qid = ?"
)
_SELECT_RUNS = (
    "SELECT t.id, q.name, t.worker, t.claimed_at FROM tasks t JOIN queues q USING (qid)"
    " WHERE t.state = 2 AND t.worker IN (SELECT name FROM workers) AND {} ORDER BY t.claimed_at"
    " LIMIT ?"
)
_SELECT_DEAD = (
    "SELECT outcome, reason, died_us / 1e6, (SELECT qid FROM queues q WHERE q.name = d.queue)"
    " FROM dead d WHERE task_id = ?"
)
_OF_QUEUE = "FROM tasks WHERE qid = :qid AND state = 0"
_SELECT_ENDS = (
    f"SELECT (SELECT min(seq) {_OF_QUEUE} AND priority = :priority),"
    f" (SELECT max(seq) {_OF_QUEUE} AND priority = :priority),"
    " (SELECT waiting FROM queues WHERE qid = :qid)"
)
# Two counts, each along the index; comparing (priority, seq) pairs takes twice as long.
_COUNT = (
    f"SELECT (SELECT count(*) {_OF_QUEUE} AND priority {{0}} :priority)"
    f" + (SELECT count(*) {_OF_QUEUE} AND priority = :priority AND seq {{0}} :seq)"
)


class _Task(NamedTuple):
    """A task's row."""

    seq: int
    qid: int
    state: int
    priority: int
    failures: int
    crashes: int
    cancelled: int
    error: str | None
    due: float | None
    submitted_at: float
    settled_at: float | None


def locate(db: sqlite3.Connection, task_id: str, clock: StoreClock) -> TaskLocation:
    """See ``LocatesTasks.locate``."""
    found = replace(_basics(db, task_id, clock), group=group_seen(db, task_id))
    row = db.execute(_SELECT_TASK, (task_id,)).fetchone()
    if row is None:
        return found
    task = _Task(*row)
    found = replace(
        found,
        agent=_agent(db, task.qid, found.workers, clock),
        spending=_spending_of_run(db, task_id),
        submitted_at=task.submitted_at,
        failures=task.failures,
        crashes=task.crashes,
        cancelled=bool(task.cancelled),
        error=found.error or task.error or "",
    )
    return found if found.place == "dead" else _placed(db, found, task, clock)


def _placed(
    db: sqlite3.Connection, found: TaskLocation, task: _Task, clock: StoreClock
) -> TaskLocation:
    """Add where the task is, by its state."""
    collection = found.agent.collection if found.agent else None
    if task.state == WAITING:
        return replace(found, place="waiting", position=_position(db, task))
    if task.state == DELAYED:
        due = task.due or 0.0
        due_at = None if due >= PARKED_BY_POLICY else clock.as_wall(due)
        policy = policy_ahead(db, collection, due)
        return replace(found, place="delayed", due_at=due_at, policy=policy)
    if task.state == RUNNING:
        run = next(iter(_runs(db, clock, "t.seq = ?", task.seq)), None)
        return replace(found, place="running", run=run, held_by=pause_of(db, collection))
    place: Place = "settled" if found.outbox_before is None else "outbox"
    return replace(found, place=place, since=clock.as_wall(task.settled_at or 0.0))


def _spending_of_run(db: sqlite3.Connection, task_id: str) -> Spending | None:
    run = run_of(task_id)
    return None if run is None else spending_of(db, "run", run)


def _basics(db: sqlite3.Connection, task_id: str, clock: StoreClock) -> TaskLocation:
    """Return what does not depend on the task's row: outbox, workers, dead letter."""
    now = time.monotonic()
    before, since = _in_outbox(db, task_id)
    since = None if since is None else clock.as_wall(since)
    found = TaskLocation(
        task_id,
        "unknown",
        outbox=counter(db, "outbox"),
        outbox_bytes=counter(db, "outbox_bytes"),
        outbox_before=before,
        outbox_since=since,
        workers=tuple(worker_seen(row) for row in db.execute(SELECT_WORKERS, (now, now))),
    )
    dead = db.execute(_SELECT_DEAD, (task_id,)).fetchone()
    if dead is None:
        return found
    outcome, reason, died_at, qid = dead
    agent = None if qid is None else _agent(db, qid, found.workers, clock)
    return replace(found, place="dead", agent=agent, outcome=outcome, error=reason, since=died_at)


def _in_outbox(db: sqlite3.Connection, task_id: str) -> tuple[int | None, float | None]:
    """Return the number of results before the task's, and when the oldest entered the outbox."""
    oldest = db.execute(
        "SELECT t.settled_at FROM outbox o JOIN tasks t ON t.id = o.task_id ORDER BY o.seq LIMIT 1"
    ).fetchone()
    mine = db.execute("SELECT seq FROM outbox WHERE task_id = ?", (task_id,)).fetchone()
    if mine is None:
        return None, oldest and oldest[0]
    (before,) = db.execute("SELECT count(*) FROM outbox WHERE seq < ?", mine).fetchone()
    return before, oldest and oldest[0]


def _position(db: sqlite3.Connection, task: _Task) -> int:
    """Return the position from 1, counted in an index from the end that is probably nearer."""
    place = {"qid": task.qid, "priority": task.priority, "seq": task.seq}
    first, last, waiting = db.execute(_SELECT_ENDS, place).fetchone()
    if task.seq - first < last - task.seq:
        return int(db.execute(_COUNT.format("<"), place).fetchone()[0]) + 1
    return int(waiting - db.execute(_COUNT.format(">"), place).fetchone()[0])


def _agent(
    db: sqlite3.Connection, qid: int, workers: tuple[WorkerSeen, ...], clock: StoreClock
) -> AgentSeen:
    row = db.execute(_SELECT_AGENT, (qid,)).fetchone()
    name, collection, concurrency, waiting, held_until, gate, own, whole, *rest = row
    capacity, run_s, reason = rest
    serving = {worker for (worker,) in db.execute(SELECT_SERVERS, (name,))}
    return AgentSeen(
        name,
        collection,
        concurrency,
        waiting=waiting,
        paused=bool(own),
        collection_paused=bool(whole),
        cooldown_s=max(0.0, held_until - clock.now()),
        runs=tuple(_runs(db, clock, "t.qid = ?", qid)),
        group_limit=capacity,
        group_runs=tuple(_runs(db, clock, "q.gate = ?", gate)) if gate else (),
        servers=tuple(worker for worker in workers if worker.name in serving),
        run_s=run_s,
        pause_reason=reason,
        spending=None if collection is None else spending_of(db, "collection", collection),
    )


def _runs(
    db: sqlite3.Connection, clock: StoreClock, where: str, value: int | str
) -> list[ClaimSeen]:
    rows = db.execute(_SELECT_RUNS.format(where), (value, MAX_RUNS))
    return [
        ClaimSeen(task_id, queue, worker, clock.as_wall(claimed_at))
        for task_id, queue, worker, claimed_at in rows
    ]
