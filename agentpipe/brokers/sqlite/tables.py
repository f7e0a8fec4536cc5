"""The tables of the embedded store, and queries that are put together from them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.store import QueueDepth, WorkerSeen

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.store import Queue

LAYOUT = 3
# States of a task.
WAITING, DELAYED, RUNNING, SETTLED = range(4)

# Payloads have a table of their own, so that a change of state never rewrites one.
SCHEMA = """
CREATE TABLE queues (
    qid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, collection TEXT, position INTEGER,
    max_waiting INTEGER NOT NULL, concurrency INTEGER NOT NULL, max_crashes INTEGER NOT NULL,
    waiting INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0,
    gate TEXT, held_until REAL NOT NULL DEFAULT 0, paused INTEGER NOT NULL DEFAULT 0, run_s REAL,
    ready INTEGER AS (
        waiting > 0 AND running < concurrency AND held_until = 0 AND paused = 0) VIRTUAL);
CREATE UNIQUE INDEX queues_ring ON queues (collection, position) WHERE position IS NOT NULL;
CREATE INDEX queues_ready ON queues (turn) WHERE ready AND gate IS NULL;
CREATE INDEX queues_held ON queues (held_until) WHERE held_until > 0;
CREATE TABLE pauses (kind TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE gates (
    name TEXT PRIMARY KEY, capacity INTEGER NOT NULL, running INTEGER NOT NULL DEFAULT 0,
    ready INTEGER NOT NULL DEFAULT 0);
CREATE INDEX gates_open ON gates (name) WHERE ready > 0 AND running < capacity;
CREATE TABLE rings (collection TEXT PRIMARY KEY, cursor INTEGER NOT NULL);
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, qid INTEGER NOT NULL,
    state INTEGER NOT NULL, priority INTEGER NOT NULL, number INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
    last_chance INTEGER NOT NULL DEFAULT 0, worker TEXT, due REAL,
    submitted_at REAL NOT NULL, settled_at REAL, claimed_at REAL, error TEXT,
    cancelled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX tasks_waiting ON tasks (qid, priority, seq) WHERE state = 0;
CREATE INDEX tasks_delayed ON tasks (due) WHERE state = 1;
CREATE INDEX tasks_running ON tasks (worker) WHERE state = 2;
CREATE INDEX tasks_cancelled ON tasks (id) WHERE cancelled = 1 AND state = 2;
CREATE INDEX tasks_last_chance ON tasks (state, worker) WHERE last_chance = 1;
CREATE INDEX tasks_settled ON tasks (settled_at) WHERE state = 3;
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, bytes INTEGER NOT NULL,
    taker TEXT);
CREATE INDEX outbox_free ON outbox (seq) WHERE taker IS NULL;
CREATE TABLE outbox_bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE dead (
    task_id TEXT PRIMARY KEY, queue TEXT NOT NULL, collection TEXT, payload BLOB NOT NULL,
    result BLOB NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, died_at REAL NOT NULL);
CREATE INDEX dead_by_age ON dead (died_at);
CREATE TABLE workers (
    name TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, slots INTEGER NOT NULL,
    lease_s REAL NOT NULL, beat REAL NOT NULL, serves BLOB NOT NULL,
    queues TEXT NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)
"""

# A gate's counts are those of its queues together: who claims need not look at each of them. A
# trigger keeps them, whatever changes a queue; it is made with the first gate, since it costs all.
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
LAPSED = "NOT (beat <= ? AND ? < beat + lease_s)"
SELECT_CANCELLED = "SELECT id FROM tasks WHERE cancelled = 1 AND state = 2"
SELECT_DECLARED = (
    "SELECT name, collection, position, max_waiting, concurrency, max_crashes, gate,"
    " (SELECT capacity FROM gates g WHERE g.name = gate) FROM queues"
)
SELECT_DEPTHS = (
    "SELECT name, collection, waiting, delayed, running, max_waiting, concurrency,"
    " CASE WHEN held_until > 0 THEN max(0.0, held_until - ?) ELSE 0.0 END, paused FROM queues"
    " WHERE position IS NOT NULL OR collection IS NULL OR waiting + delayed + running > 0"
    " ORDER BY collection, position, name"
)
SELECT_WORKERS = (
    "SELECT name, host, pid, slots, beat,"
    " (SELECT count(*) FROM tasks WHERE state = 2 AND worker = name) FROM workers"
    f" WHERE NOT ({LAPSED}) ORDER BY name"
)
# What a queue's flag says is put together from its own pause and its collection's.
SET_PAUSES = (
    "UPDATE queues SET paused = NOT paused WHERE paused != EXISTS (SELECT 1 FROM pauses p"
    " WHERE (p.kind = 'queue' AND p.name = queues.name)"
    " OR (p.kind = 'collection' AND p.name = queues.collection))"
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
    """What ``UPSERT_QUEUE`` takes, and the gate's limit: positions count up within a collection."""
    positions: dict[str, int] = {}
    for queue in queues:
        position = None
        if queue.collection is not None:
            position = positions.get(queue.collection, 0)
            positions[queue.collection] = position + 1
        limits = (queue.max_waiting, queue.concurrency, queue.max_crashes)
        gate = (queue.gate, None if queue.gate is None else queue.gate_limit)
        yield (queue.name, queue.collection, position, *limits, *gate)


def add_to_counters(db: sqlite3.Connection, changes: Mapping[str, int]) -> None:
    """Add to each counter, once per transaction."""
    db.executemany(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        changes.items(),
    )


def counter(db: sqlite3.Connection, name: str) -> int:
    """Its value; 0 before its first change."""
    row = db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def queue_depth(row: tuple[Any, ...]) -> QueueDepth:
    """One row of ``SELECT_DEPTHS``."""
    *depth, paused = row
    return replace(QueueDepth(*depth), paused=bool(paused))


def worker_seen(row: tuple[str, str, int, int, float, int]) -> WorkerSeen:
    """One row of ``SELECT_WORKERS``."""
    name, host, pid, slots, beat, running = row
    return WorkerSeen(name, host, pid, slots, running, max(0.0, time.monotonic() - beat))
