"""The embedded store's snapshot for ``status``, ``top`` and metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.sqlite import measures
from agentpipe.brokers.sqlite.budgets import read_spendings, with_budgets
from agentpipe.brokers.sqlite.declaring import read_sources
from agentpipe.brokers.sqlite.groups import read_counts
from agentpipe.brokers.sqlite.loops import read_loops
from agentpipe.brokers.sqlite.policies import read_policies
from agentpipe.brokers.sqlite.queries import PAUSE_REASON, SELECT_WORKERS, worker_seen
from agentpipe.brokers.sqlite.tallies import read_sum, tally_of
from agentpipe.brokers.statistics import RECENT_S, QueueDepth, Stats

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.brokers.sqlite.clock import StoreClock

# Ends with the columns of a tally. A queue that left its collection shows only while it has tasks.
_SELECT_DEPTHS = (
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
_COUNT_RECENT = "SELECT count(*) FROM tasks WHERE state = 3 AND settled_at > ?"
# When the oldest result in the outbox was settled.
_SELECT_OLDEST = (
    "SELECT settled_at FROM tasks WHERE state = 3"
    " AND id = (SELECT task_id FROM outbox WHERE seq NOT IN (SELECT seq FROM group_records)"
    " ORDER BY seq LIMIT 1)"
)


def read_stats(db: sqlite3.Connection, clock: StoreClock) -> Stats:
    """Read a consistent snapshot."""
    now, moment = time.monotonic(), clock.now()
    counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
    (dead,) = db.execute("SELECT count(*) FROM dead").fetchone()
    queues = tuple(_depth_of(row) for row in db.execute(_SELECT_DEPTHS, (moment,)))
    tally = read_sum(db)
    (recent,) = db.execute(_COUNT_RECENT, (moment - RECENT_S,)).fetchone()
    (oldest,) = db.execute(_SELECT_OLDEST).fetchone() or (moment,)
    workers = tuple(worker_seen(row) for row in db.execute(SELECT_WORKERS, (now, now)))
    declared = read_sources(db)
    spendings = read_spendings(db)
    measured = measures.read(db)
    groups = read_counts(db, counters)
    policies = read_policies(db)
    return Stats.counted(
        counters,
        with_budgets(db, queues, spendings),
        outbox=counters.get("outbox", 0) - groups.records,
        groups=groups,
        dead=dead,
        workers=workers,
        tally=tally,
        recent=recent,
        undelivered_s=max(0.0, moment - oldest),
        declared=declared,
        spendings=spendings,
        measures=measured,
        policies=policies,
        loops=read_loops(db),
    )


def _depth_of(row: Sequence[Any]) -> QueueDepth:
    """Decode a row of ``_SELECT_DEPTHS``."""
    name, collection, waiting, delayed, running, limit, concurrency, cooldown_s, *rest = row
    paused, reason, group, group_limit, removed, *tally = rest
    return QueueDepth(
        name,
        collection,
        waiting,
        delayed,
        running,
        limit,
        concurrency,
        cooldown_s,
        paused=bool(paused),
        tally=tally_of(tally),
        pause_reason=reason,
        group=None if group is None else (group, group_limit),
        removed=bool(removed),
    )
