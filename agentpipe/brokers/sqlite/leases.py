"""Leases: which workers live, and the tasks of those whose lease expired."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.sqlite.queries import COUNT_CRASH, LAPSED
from agentpipe.brokers.sqlite.served import forget_unserved
from agentpipe.brokers.sqlite.suspects import COUNT_SHARED_CRASH
from agentpipe.core.text import counted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.brokers.records import Worker

_FROM_THE_START = "nothing could be stored when this process began"


def end_lapsed_workers(db: sqlite3.Connection) -> None:
    """Remove workers whose lease expired; their tasks count a crash."""
    now = time.monotonic()
    lapsed = db.execute(f"SELECT name FROM workers WHERE {LAPSED}", (now, now)).fetchall()
    for (name,) in lapsed:
        end_worker(db, name)


def renew_leases(db: sqlite3.Connection, since: float) -> str:
    """Restart each lease that was alive at ``since``, when writes became impossible.

    At -inf that was before this process began, and all leases restart. Returns what to log; empty
    if there was none.
    """
    now = time.monotonic()
    has_begin = math.isfinite(since)
    renewed = db.execute(
        "UPDATE workers SET beat = ?1 WHERE beat <= ?3 AND ?2 < beat + lease_s",
        (now, since, since if has_begin else now),
    ).rowcount
    if not renewed:
        return ""
    began = f"nothing could be stored for {now - since:.0f} s" if has_begin else _FROM_THE_START
    return f"{began}: {counted(renewed, 'lease')} began anew"


def end_worker(db: sqlite3.Connection, name: str, begun: Sequence[str] | None = None) -> int:
    """Remove the worker and requeue its tasks; returns how many.

    The tasks in ``begun`` count one more crash; None for all of them.
    """
    held = db.execute(
        "SELECT qid, count(*) FROM tasks WHERE state = 2 AND worker = ? GROUP BY qid", (name,)
    ).fetchall()
    number_begun = sum(number for _, number in held) if begun is None else len(begun)
    count = f"{COUNT_SHARED_CRASH} AND" if number_begun > 1 else f"{COUNT_CRASH} WHERE"
    db.execute(
        f"UPDATE tasks {count} state = 2 AND worker = ?1"
        " AND (?2 IS NULL OR id IN (SELECT value FROM json_each(?2)))",
        (name, None if begun is None else orjson.dumps(begun).decode()),
    )
    db.execute("UPDATE tasks SET state = 0, worker = NULL WHERE state = 2 AND worker = ?", (name,))
    db.executemany(
        "UPDATE queues SET running = running - ?1, waiting = waiting + ?1 WHERE qid = ?2",
        [(number, qid) for qid, number in held],
    )
    db.execute("UPDATE outbox SET taker = NULL WHERE taker = ?", (name,))
    db.execute("DELETE FROM workers WHERE name = ?", (name,))
    forget_unserved(db)
    db.execute("DELETE FROM pauses WHERE kind = 'worker' AND name = ?", (name,))
    return sum(number for _, number in held)


def is_known(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether the worker has joined, has not left, and its lease was not ended."""
    found = db.execute("SELECT 1 FROM workers WHERE name = ?", (worker.name,)).fetchone()
    return found is not None
