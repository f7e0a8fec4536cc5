"""The tables of the embedded store, and shared queries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import QueueDepth, Tally, WorkerSeen
from agentpipe.connections.sqlite_layout import Layout
from agentpipe.connections.sqlite_rows import execute_rows
from agentpipe.core.budgets import EXACT_USD

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue, Settlement

# States of a task.
WAITING, DELAYED, RUNNING, SETTLED = range(4)
NOTHING = Tally()

# Payloads have a table of their own, so that a change of state never rewrites one. Dead letters
# are numbered by the microsecond of their death, each with one to itself.
_SCHEMA = """
CREATE TABLE queues (
    qid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, collection TEXT, position INTEGER,
    max_waiting INTEGER NOT NULL, concurrency INTEGER NOT NULL, max_crashes INTEGER NOT NULL,
    waiting INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0,
    gate TEXT, held_until REAL NOT NULL DEFAULT 0, paused INTEGER NOT NULL DEFAULT 0, run_s REAL,
    ready INTEGER AS (
        waiting > 0 AND running < concurrency AND held_until = 0 AND paused = 0) VIRTUAL);
CREATE UNIQUE INDEX queues_ring ON queues (collection, position) WHERE position IS NOT NULL;
CREATE INDEX queues_lanes ON queues (coalesce(collection, name), turn)
    WHERE ready AND gate IS NULL;
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
    cancelled INTEGER NOT NULL DEFAULT 0, cooled_s REAL NOT NULL DEFAULT 0);
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
    died_us INTEGER PRIMARY KEY, task_id TEXT NOT NULL UNIQUE, queue TEXT NOT NULL,
    collection TEXT, outcome TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX dead_of_collection ON dead (collection, outcome);
CREATE INDEX dead_by_outcome ON dead (outcome);
CREATE TABLE dead_bodies (died_us INTEGER PRIMARY KEY, payload BLOB NOT NULL, result BLOB NOT NULL);
CREATE TABLE workers (
    name TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, slots INTEGER NOT NULL,
    lease_s REAL NOT NULL, beat REAL NOT NULL, serves BLOB NOT NULL,
    queues TEXT NOT NULL, report BLOB NOT NULL DEFAULT x'');
CREATE TABLE tallies (
    qid INTEGER PRIMARY KEY, done INTEGER NOT NULL, failed INTEGER NOT NULL,
    evaluated INTEGER NOT NULL, passed REAL NOT NULL, usd REAL NOT NULL,
    error TEXT NOT NULL, failed_at REAL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)
"""
# The breaker's: rows of equal failures, and why it has paused a collection.
_WITH_BREAKER = """
CREATE TABLE pause_reasons (
    kind TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE streaks (
    collection TEXT PRIMARY KEY, digest TEXT NOT NULL, failures INTEGER NOT NULL)
"""
_WITH_COOLED = "ALTER TABLE tasks ADD COLUMN cooled_s REAL NOT NULL DEFAULT 0"
# Where collections come from: the last sender, the last worker, and what the group follows.
_WITH_SOURCES = """
CREATE TABLE sources (
    collection TEXT NOT NULL, role TEXT NOT NULL, fingerprint TEXT NOT NULL, place TEXT NOT NULL,
    edited_us INTEGER NOT NULL, config_us INTEGER NOT NULL, PRIMARY KEY (collection, role))
"""
# Results that the sink refuses, as dead letters without a payload; a task may have several.
_WITH_UNDELIVERABLE = """
CREATE TABLE IF NOT EXISTS undeliverable (
    died_us INTEGER PRIMARY KEY, task_id TEXT NOT NULL, queue TEXT NOT NULL,
    collection TEXT, outcome TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS undeliverable_by_task ON undeliverable (task_id);
CREATE TABLE IF NOT EXISTS undeliverable_bodies (
    died_us INTEGER PRIMARY KEY, payload BLOB NOT NULL, result BLOB NOT NULL)
"""
# Before, a claim read all ready queues, also those of other workers.
_WITH_LANES = """
DROP INDEX IF EXISTS queues_ready;
CREATE INDEX IF NOT EXISTS queues_lanes ON queues (coalesce(collection, name), turn)
    WHERE ready AND gate IS NULL
"""
_WITH_BUDGETS = f"""
CREATE TABLE IF NOT EXISTS budgets (
    kind TEXT NOT NULL, name TEXT NOT NULL, cap_usd REAL, cap_tokens INTEGER,
    usd REAL NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
    declared TEXT NOT NULL DEFAULT '',
    spent INTEGER AS (
        coalesce(usd + {EXACT_USD} >= cap_usd, 0) OR coalesce(tokens >= cap_tokens, 0)) VIRTUAL,
    PRIMARY KEY (kind, name));
CREATE INDEX IF NOT EXISTS budgets_spent ON budgets (kind, name) WHERE spent
"""
# Results of a run, by the config that ran and by outcome; of a task that goes on, an empty outcome.
_WITH_RUNS = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT NOT NULL UNIQUE, record BLOB NOT NULL, tasks INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS run_results (
    run TEXT NOT NULL, config_hash TEXT NOT NULL, outcome TEXT NOT NULL, done INTEGER NOT NULL,
    rewarded INTEGER NOT NULL, rewards REAL NOT NULL, usd REAL NOT NULL,
    PRIMARY KEY (run, config_hash, outcome)) WITHOUT ROWID
"""
# Numbers that only rise, packed, by collection or by queue outside any.
_WITH_MEASURES = """
CREATE TABLE IF NOT EXISTS measures (name TEXT PRIMARY KEY, numbers BLOB NOT NULL) WITHOUT ROWID
"""
# Members in the order in which they were offered; a repaired one has the id of its last task. What
# of the outbox is the record of a group counts as no delivered result.
_WITH_GROUPS = """
CREATE TABLE IF NOT EXISTS task_groups (
    group_id TEXT PRIMARY KEY, need INTEGER NOT NULL, repairs INTEGER NOT NULL,
    left INTEGER NOT NULL, good INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0,
    oldest INTEGER, newest INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_members (
    task_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, place INTEGER NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS group_members_in_order ON group_members (group_id, place);
CREATE TABLE IF NOT EXISTS group_records (seq INTEGER PRIMARY KEY)
"""
# What was declared last is compared with, so that what was published since stays.
_WITH_POLICIES = """
CREATE TABLE IF NOT EXISTS policies (
    name TEXT PRIMARY KEY, spec TEXT NOT NULL, declared TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0, paused INTEGER NOT NULL DEFAULT 0,
    pauses INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policy_followers (
    collection TEXT PRIMARY KEY, policy TEXT NOT NULL) WITHOUT ROWID
"""
# What has begun and not ended, 'group NAME' or 'task ID', of policies that limit that.
_WITH_UNITS = """
CREATE TABLE IF NOT EXISTS policy_counts (
    policy TEXT PRIMARY KEY, accepted INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, stale INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policy_units (
    unit TEXT PRIMARY KEY, policy TEXT NOT NULL) WITHOUT ROWID
"""
# Which trainer has which loop, and when it was heard, on the monotonic clock.
_WITH_LOOPS = """
CREATE TABLE IF NOT EXISTS loops (
    name TEXT PRIMARY KEY, token TEXT NOT NULL, beat REAL NOT NULL, lease_s REAL NOT NULL,
    report BLOB NOT NULL) WITHOUT ROWID
"""
LAYOUT = Layout(
    15,
    "queues",
    f"{_SCHEMA};\n{_WITH_BREAKER};\n{_WITH_SOURCES};\n{_WITH_UNDELIVERABLE};\n{_WITH_BUDGETS};\n"
    f"{_WITH_RUNS};\n{_WITH_MEASURES};\n{_WITH_GROUPS};\n{_WITH_POLICIES};\n{_WITH_UNITS};\n"
    f"{_WITH_LOOPS}",
    {
        3: _WITH_BREAKER,
        4: _WITH_COOLED,
        5: _WITH_SOURCES,
        6: _WITH_UNDELIVERABLE,
        7: _WITH_LANES,
        8: _WITH_BUDGETS,
        9: _WITH_RUNS,
        10: _WITH_MEASURES,
        11: _WITH_GROUPS,
        12: _WITH_POLICIES,
        13: _WITH_UNITS,
        14: _WITH_LOOPS,
    },
)

# Why a queue is paused: its collection's reason, or its own.
PAUSE_REASON = (
    "coalesce((SELECT reason FROM pause_reasons"
    " WHERE kind = 'collection' AND name = {0}.collection),"
    " (SELECT reason FROM pause_reasons WHERE kind = 'queue' AND name = {0}.name), '')"
)

# The counts of a concurrency group (table gates) sum up its queues: a claim need not read each of
# them. A trigger updates them with every change of a queue; it is created with the first group,
# since it costs every task.
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
# Of tasks whose worker died with them.
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
# A worker that drains has a pause of its own: it claims nothing from any queue.
IS_DRAINING = "EXISTS (SELECT 1 FROM pauses WHERE kind = 'worker' AND pauses.name = {0})"
SELECT_WORKERS = (
    "SELECT name, host, pid, slots, beat,"
    " (SELECT count(*) FROM tasks WHERE state = 2 AND worker = name), report,"
    f" {IS_DRAINING.format('workers.name')} FROM workers"
    f" WHERE NOT ({LAPSED}) ORDER BY name"
)
# A queue's flag combines its own pause, its collection's, and whether that has spent its budget.
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
    """Parameters of ``UPSERT_QUEUE``, and the group's limit; positions count per collection."""
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
    """Add to each counter, once per transaction."""
    execute_rows(
        db,
        "INSERT INTO counters VALUES {}"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        list(changes.items()),
    )


def counter(db: sqlite3.Connection, name: str) -> int:
    """The counter's value; 0 before its first change."""
    row = db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def add_to_tallies(db: sqlite3.Connection, settlements: Iterable[Settlement], now: float) -> None:
    """Add the settlements to each queue's tally, once per transaction and queue."""
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
    """One row of ``SELECT_TALLY``, or the end of one of ``SELECT_DEPTHS``; may be empty."""
    return NOTHING if row[0] is None else Tally(*row)


def depth_of(row: Sequence[Any]) -> QueueDepth:
    """One row of ``SELECT_DEPTHS``."""
    *depth, paused, reason, group, group_limit, removed = row[:-7]
    limited = None if group is None else (group, group_limit)
    known = (bool(paused), tally_of(row[-7:]), reason, limited, bool(removed))
    return QueueDepth(*(*depth, *known))


def worker_seen(row: tuple[str, str, int, int, float, int, bytes, int]) -> WorkerSeen:
    """One row of ``SELECT_WORKERS``."""
    name, host, pid, slots, beat, running, report, draining = row
    seen_s = max(0.0, time.monotonic() - beat)
    return WorkerSeen(name, host, pid, slots, running, seen_s, report, bool(draining))
