"""Queries that several modules of the embedded store share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import WorkerSeen
from agentpipe.connections.sqlite_rows import execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

# States of a task.
WAITING, DELAYED, RUNNING, SETTLED = range(4)
# Due times of parked tasks: their policy may not start more yet, or their run has spent its budget.
# The store's clock never reaches either.
PARKED_BY_POLICY, PARKED_BY_BUDGET = 5e14, 1e15

# Why a queue is paused: its collection's reason, or else its own.
PAUSE_REASON = (
    "coalesce((SELECT reason FROM pause_reasons"
    " WHERE kind = 'collection' AND name = {0}.collection),"
    " (SELECT reason FROM pause_reasons WHERE kind = 'queue' AND name = {0}.name), '')"
)

# Counts a crash of tasks whose worker died; an UPDATE of tasks, to be continued.
COUNT_CRASH = (
    "SET crashes = crashes + 1, last_chance = (crashes + 2 ="
    " (SELECT max_crashes FROM queues q WHERE q.qid = tasks.qid))"
)
# Whether a worker's lease expired; takes the monotonic time twice. That clock restarts at boot: an
# old beat can lie in the future.
LAPSED = "NOT (beat <= ? AND ? < beat + lease_s)"
# Running tasks that were cancelled.
SELECT_CANCELLED = "SELECT id FROM tasks WHERE cancelled = 1 AND state = 2"
# A drain mark is a row of ``pauses`` with the worker's name.
IS_DRAINING = "EXISTS (SELECT 1 FROM pauses WHERE kind = 'worker' AND pauses.name = {0})"
# Live workers; takes the monotonic time twice.
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
# Sets a counter, unless it is higher; returns the higher value.
RAISE_COUNTER = (
    "INSERT INTO counters VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value) RETURNING value"
)


def add_to_counters(db: sqlite3.Connection, changes: Mapping[str, int]) -> None:
    """Add each change to the counter of that name, with one statement."""
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


def worker_seen(row: tuple[str, str, int, int, float, int, bytes, int]) -> WorkerSeen:
    """Decode a row of ``SELECT_WORKERS``."""
    name, host, pid, slots, beat, running, report, draining = row
    seen_s = max(0.0, time.monotonic() - beat)
    return WorkerSeen(name, host, pid, slots, running, seen_s, report, bool(draining))
