"""The tables of the embedded store, and migrations of older files."""

from __future__ import annotations

from agentpipe.connections.sqlite_layout import Layout
from agentpipe.core.budgets import EXACT_USD

# Payloads have a separate table, so a change of state never rewrites a payload. The key of a dead
# letter is the microsecond of its death, made unique.
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
# For the breaker: streaks of equal failures, and why it paused a collection.
_WITH_BREAKER = """
CREATE TABLE pause_reasons (
    kind TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE streaks (
    collection TEXT PRIMARY KEY, digest TEXT NOT NULL, failures INTEGER NOT NULL)
"""
_WITH_COOLED = "ALTER TABLE tasks ADD COLUMN cooled_s REAL NOT NULL DEFAULT 0"
# Where collections come from: the last sender, the last worker, and the group's source.
_WITH_SOURCES = """
CREATE TABLE sources (
    collection TEXT NOT NULL, role TEXT NOT NULL, fingerprint TEXT NOT NULL, place TEXT NOT NULL,
    edited_us INTEGER NOT NULL, config_us INTEGER NOT NULL, PRIMARY KEY (collection, role))
"""
# Results that the sink refuses, as dead letters without a payload; a task can have several.
_WITH_UNDELIVERABLE = """
CREATE TABLE IF NOT EXISTS undeliverable (
    died_us INTEGER PRIMARY KEY, task_id TEXT NOT NULL, queue TEXT NOT NULL,
    collection TEXT, outcome TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS undeliverable_by_task ON undeliverable (task_id);
CREATE TABLE IF NOT EXISTS undeliverable_bodies (
    died_us INTEGER PRIMARY KEY, payload BLOB NOT NULL, result BLOB NOT NULL)
"""
# Before this layout, a claim read all ready queues, including those of other workers.
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
# Results of a run by config and outcome; the outcome is empty for a run whose task did not end.
_WITH_RUNS = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT NOT NULL UNIQUE, record BLOB NOT NULL, tasks INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS run_results (
    run TEXT NOT NULL, config_hash TEXT NOT NULL, outcome TEXT NOT NULL, done INTEGER NOT NULL,
    rewarded INTEGER NOT NULL, rewards REAL NOT NULL, usd REAL NOT NULL,
    PRIMARY KEY (run, config_hash, outcome)) WITHOUT ROWID
"""
# Monotonic counters, packed, by collection or by queue outside any collection.
_WITH_MEASURES = """
CREATE TABLE IF NOT EXISTS measures (name TEXT PRIMARY KEY, numbers BLOB NOT NULL) WITHOUT ROWID
"""
# Members keep the order in which they were offered; a replaced one has the id of its latest task.
# ``group_records`` marks outbox entries that do not count as delivered results.
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
# ``declared`` is the spec declared last. Only a different declaration replaces ``spec``, so
# endpoints that were published since then stay.
_WITH_POLICIES = """
CREATE TABLE IF NOT EXISTS policies (
    name TEXT PRIMARY KEY, spec TEXT NOT NULL, declared TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0, paused INTEGER NOT NULL DEFAULT 0,
    pauses INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policy_followers (
    collection TEXT PRIMARY KEY, policy TEXT NOT NULL) WITHOUT ROWID
"""
# Units that have started and not ended, 'group NAME' or 'task ID', for policies that limit them.
_WITH_UNITS = """
CREATE TABLE IF NOT EXISTS policy_counts (
    policy TEXT PRIMARY KEY, accepted INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, stale INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policy_units (
    unit TEXT PRIMARY KEY, policy TEXT NOT NULL) WITHOUT ROWID
"""
# Which trainer holds which loop; ``beat`` is its last heartbeat on the monotonic clock.
_WITH_LOOPS = """
CREATE TABLE IF NOT EXISTS loops (
    name TEXT PRIMARY KEY, token TEXT NOT NULL, beat REAL NOT NULL, lease_s REAL NOT NULL,
    report BLOB NOT NULL) WITHOUT ROWID
"""
# Queues that workers serve, by the digest in ``workers``, whose rows each heartbeat rewrites.
# ``workers.queues`` has them only in rows of older versions.
_WITH_SERVED = """
CREATE TABLE IF NOT EXISTS served_queues (serves BLOB PRIMARY KEY, queues TEXT NOT NULL)
"""
LAYOUT = Layout(
    16,
    "queues",
    f"{_SCHEMA};\n{_WITH_BREAKER};\n{_WITH_SOURCES};\n{_WITH_UNDELIVERABLE};\n{_WITH_BUDGETS};\n"
    f"{_WITH_RUNS};\n{_WITH_MEASURES};\n{_WITH_GROUPS};\n{_WITH_POLICIES};\n{_WITH_UNITS};\n"
    f"{_WITH_LOOPS};\n{_WITH_SERVED}",
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
        15: _WITH_SERVED,
    },
)
