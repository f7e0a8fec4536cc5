"""Served queues: which queues each worker serves, apart from its row of ``workers``.

A heartbeat rewrites the worker's whole row. With the names in it, its cost would grow with them.
Workers that serve the same queues share one row, found by a digest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.records import Worker

# Rows of workers of older versions have the names themselves.
SELECT_SERVERS = (
    "SELECT name FROM workers w WHERE serves IN (SELECT serves FROM served_queues s"
    " WHERE EXISTS (SELECT 1 FROM json_each(s.queues) WHERE value = ?1))"
    " OR EXISTS (SELECT 1 FROM json_each(w.queues) WHERE value = ?1)"
)
_NO_NAMES = "[]"
_JOIN = "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, x'')"


def join(db: sqlite3.Connection, worker: Worker) -> None:
    """Register a worker; its lease begins."""
    digest, names = worker.queues_digest, orjson.dumps(sorted(worker.queues)).decode()
    seen = (worker.name, worker.host, worker.pid, worker.slots, worker.lease_s, time.monotonic())
    db.execute(_JOIN, (*seen, digest, _NO_NAMES))
    db.execute("INSERT OR IGNORE INTO served_queues VALUES (?, ?)", (digest, names))
    forget_unserved(db)


def forget_unserved(db: sqlite3.Connection) -> None:
    """Delete the sets of queues that no worker serves any more."""
    db.execute("DELETE FROM served_queues WHERE serves NOT IN (SELECT serves FROM workers)")
