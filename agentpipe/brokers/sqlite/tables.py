"""Queries that several modules of the embedded store share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import QueueDepth, Tally, WorkerSeen
from agentpipe.connections.sqlite_rows import execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue, Settlement

# States of a task.
WAITING, DELAYED, RUNNING, SETTLED = range(4)
NOTHING = Tally()

# Why a queue is paused: its collection's reason, or else its own.
PAUSE_REASON = (
    "coalesce((SELECT reason FROM pause_reasons"
    " WHERE kind = 'collection' AND name = {0}.collection),"
    " (SELECT reason FROM pause_reasons WHERE kind = 'queue' AND name = {0}.name), '')"
)

# The counts of a concurrency group (table gates) are sums over its queues, so that a claim need not
# read each queue. A trigger updates them with every change of a queue. It slows every task down, so
# it is created only with the first group.
WITH_GATES = (
    (
        "CREATE INDEX IF NOT EXISTS queues_gated ON queues (gate, turn)"
        " WHERE ready AND gate IS NOT NULL"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS queues_through_gates"
        " AFTER UPDATE OF waiting, running, concurrency, gate, held_until, paused ON queues"
        " WHEN OLD.gate IS NOT NULL OR NEW.gate IS NOT NULL BEGIN"
        " UPDATE gates SET running = running - OLD.running, ready = ready - OLD.ready"
        " WHERE name = OLD.gate;"
        " UPDATE gates SET running = running + NEW.running, ready = ready + NEW.ready"
        " WHERE name = NEW.gate; END"
    ),
)
# For tasks whose worker died.
COUNT_CRASH = (
    "SET crashes = crashes + 1, last_chance = (crashes + 2 ="
    " (SELECT max_crashes FROM queues q WHERE q.qid = tasks.qid))"
)
LAPSED = "NOT (beat <= ? AND ? < beat + lease_s)"
SELECT_CANCELLED = "SELECT id FROM tasks WHERE cancelled = 1 AND state = 2"
SELECT_DECLARED = (
    "SELECT name, collection, position, max_waiting, concurrency, max_crashes, gate,"
    " (SELECT capacity FROM gates g WHERE g.name = gate) FROM queues"
)
SELECT_DEPTHS = (
    "SELECT name, collection, waiting, delayed, running, max_waiting, concurrency,"
    " CASE WHEN held_until > 0 THEN max(0.0, held_until - ?1) ELSE 0.0 END, paused,"
    f" {PAUSE_REASON.format('queues')},"
    " gate, (SELECT capacity FROM gates g WHERE g.name = gate),"
    " collection IS NOT NULL AND position IS NULL,"
    " done, failed, evaluated, passed, usd, error, max(0.0, ?1 - failed_at)"
    " FROM queues LEFT JOIN tallies USING (qid)"
    " WHERE position IS NOT NULL OR collection IS NULL OR waiting + delayed + running > 0"
    " ORDER BY collection, position, name"
)
SELECT_TALLY = "SELECT sum(done), sum(failed), sum(evaluated), sum(passed), sum(usd) FROM tallies"
SELECT_RECENT = "SELECT count(*) FROM tasks WHERE state = 3 AND settled_at > ?"
SELECT_OLDEST = (
    "SELECT settled_at FROM tasks WHERE state = 3"
    " AND id = (SELECT task_id FROM outbox WHERE seq NOT IN (SELECT seq FROM group_records)"
    " ORDER BY seq LIMIT 1)"
)
UPSERT_TALLY = (
    "INSERT INTO tallies SELECT qid, column1, column2, column3, column4, column5, column6, column7"
    " FROM (VALUES {}) JOIN queues ON name = column8 WHERE true"
    " ON CONFLICT (qid) DO UPDATE SET done = done + excluded.done,"
    " failed = failed + excluded.failed, evaluated = evaluated + excluded.evaluated,"
    " passed = passed + excluded.passed, usd = usd + excluded.usd,"
    " error = iif(excluded.failed_at IS NULL, error, excluded.error),"
    " failed_at = coalesce(excluded.failed_at, failed_at)"
)
# A drain mark is a row of ``pauses`` with the worker's name.
IS_DRAINING = "EXISTS (SELECT 1 FROM pauses WHERE kind = 'worker' AND pauses.name = {0})"
SELECT_WORKERS = (
    "SELECT name, host, pid, slots, beat,"
    " (SELECT count(*) FROM tasks WHERE state = 2 AND worker = name), report,"
    f" {IS_DRAINING.format('workers.name')} FROM workers"
    f" WHERE NOT ({LAPSED}) ORDER BY name"
)
# A queue's flag combines its own pause, its collection's pause, and its collection's spent budget.
SET_PAUSES = (
    "UPDATE queues SET paused = NOT paused WHERE paused != (EXISTS (SELECT 1 FROM pauses p"
    " WHERE (p.kind = 'queue' AND p.name = queues.name)"
    " OR (p.kind = 'collection' AND p.name = queues.collection))"
    " OR EXISTS (SELECT 1 FROM budgets b"
    " WHERE b.spent AND b.kind = 'collection' AND b.name = queues.collection))"
)
UPSERT_QUEUE = (
    "INSERT INTO queues (name, collection, position, max_waiting, concurrency, max_crashes, gate)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
    " collection = excluded.collection, position = excluded.position,"
    " max_waiting = excluded.max_waiting, concurrency = excluded.concurrency,"
    " max_crashes = excluded.max_crashes, gate = excluded.gate"
)
UPSERT_GATE = (
    "INSERT INTO gates (name, capacity) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET capacity = excluded.capacity"
)


def queue_rows(queues: Iterable[Queue]) -> Iterable[tuple[Any, ...]]:
    """Yield parameters of ``UPSERT_QUEUE`` plus the group's limit; positions are per collection."""
    positions: dict[str, int] = {}
    for queue in queues:
        position = None
        if queue.collection is not None:
            position = positions.get(queue.collection, 0)
            positions[queue.collection] = position + 1
        limits = (queue.max_waiting, queue.concurrency, queue.max_crashes)
        group = queue.concurrency_group
        group_limit = None if group is None else queue.concurrency_group_limit
        yield (queue.name, queue.collection, position, *limits, group, group_limit)


RAISE_COUNTER = (
    "INSERT INTO counters VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value) RETURNING value"
)


def add_to_counters(db: sqlite3.Connection, changes: Mapping[str, int]) -> None:
    """Add to the counters, with one statement."""
    execute_rows(
        db,
        "INSERT INTO counters VALUES {}"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        list(changes.items()),
    )


def counter(db: sqlite3.Connection, name: str) -> int:
    """Return the counter's value; 0 before its first change."""
    row = db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def add_to_tallies(db: sqlite3.Connection, settlements: Iterable[Settlement], now: float) -> None:
    """Add the settlements to the queues' tallies, with one statement."""
    tallies: dict[str, Tally] = {}
    for each in settlements:
        tally = Tally.of(each)
        if tally != NOTHING:
            tallies[each.claim.queue] = tallies.get(each.claim.queue, NOTHING) + tally
    rows = [_tally_row(name, tally, now) for name, tally in tallies.items()]
    execute_rows(db, UPSERT_TALLY, rows)


def _tally_row(name: str, tally: Tally, now: float) -> tuple[Any, ...]:
    failed_at = None if tally.error_s is None else now
    counts = (tally.done, tally.failed, tally.evaluated, tally.passed, tally.usd)
    return (*counts, tally.error, failed_at, name)


def tally_of(row: Sequence[Any]) -> Tally:
    """Decode a row of ``SELECT_TALLY``, or the end of one of ``SELECT_DEPTHS``; NULLs if none."""
    return NOTHING if row[0] is None else Tally(*row)


def depth_of(row: Sequence[Any]) -> QueueDepth:
    """Decode a row of ``SELECT_DEPTHS``."""
    *depth, paused, reason, group, group_limit, removed = row[:-7]
    limited = None if group is None else (group, group_limit)
    known = (bool(paused), tally_of(row[-7:]), reason, limited, bool(removed))
    return QueueDepth(*(*depth, *known))


def worker_seen(row: tuple[str, str, int, int, float, int, bytes, int]) -> WorkerSeen:
    """Decode a row of ``SELECT_WORKERS``."""
    name, host, pid, slots, beat, running, report, draining = row
    seen_s = max(0.0, time.monotonic() - beat)
    return WorkerSeen(name, host, pid, slots, running, seen_s, report, bool(draining))
