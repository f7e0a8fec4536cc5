"""The embedded store's snapshot for ``status``, ``top`` and metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.brokers.sqlite import measures
from agentpipe.brokers.sqlite.budgets import read_spendings, with_budgets
from agentpipe.brokers.sqlite.declaring import read_sources
from agentpipe.brokers.sqlite.groups import read_counts
from agentpipe.brokers.sqlite.loops import read_loops
from agentpipe.brokers.sqlite.policies import read_policies
from agentpipe.brokers.sqlite.tables import (
    SELECT_DEPTHS,
    SELECT_OLDEST,
    SELECT_RECENT,
    SELECT_TALLY,
    SELECT_WORKERS,
    depth_of,
    tally_of,
    worker_seen,
)
from agentpipe.brokers.statistics import RECENT_S, Stats

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.sqlite.clock import StoreClock


def read_stats(db: sqlite3.Connection, clock: StoreClock) -> Stats:
    """Read a consistent snapshot."""
    now, moment = time.monotonic(), clock.now()
    counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
    (dead,) = db.execute("SELECT count(*) FROM dead").fetchone()
    queues = tuple(depth_of(row) for row in db.execute(SELECT_DEPTHS, (moment,)))
    tally = tally_of(db.execute(SELECT_TALLY).fetchone())
    (recent,) = db.execute(SELECT_RECENT, (moment - RECENT_S,)).fetchone()
    (oldest,) = db.execute(SELECT_OLDEST).fetchone() or (moment,)
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
