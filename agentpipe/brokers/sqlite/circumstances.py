"""Circumstances: what a claim depends on besides the queues, once what is over has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from agentpipe.brokers.sqlite.leases import end_lapsed_workers
from agentpipe.brokers.sqlite.queries import LAPSED

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.records import Worker


class Circumstances(NamedTuple):
    """What a claim depends on besides the queues, read by one query.

    Attributes:
        lapsed: Whether a worker's lease expired.
        due: Whether a delay or a cooldown is over.
        known: Whether the claiming worker is registered.
        last_chances: Whether any task would be ended by one more crash.
        spent: Whether a budget is spent.
        policies: Whether a collection follows a policy.
        outbox: Number of records in the outbox.
        outbox_bytes: Size of the outbox.
        turn: The highest turn given; 0 in a file of an older version.
        now: The store's time.
    """

    lapsed: bool
    due: bool
    known: bool
    last_chances: bool
    spent: bool
    policies: bool
    outbox: int
    outbox_bytes: int
    turn: int
    now: float

    @classmethod
    def read(cls, db: sqlite3.Connection, worker: Worker, now: float) -> Circumstances:
        """Read them; ``now`` is the store's time."""
        moment = time.monotonic()
        values = (moment, moment, now, now, worker.name)
        return cls._make((*db.execute(_SELECT_CIRCUMSTANCES, values).fetchone(), now))


def _counter(name: str) -> str:
    return f"coalesce((SELECT value FROM counters WHERE name = '{name}'), 0)"


_SELECT_CIRCUMSTANCES = (
    f"SELECT EXISTS (SELECT 1 FROM workers WHERE {LAPSED}),"
    " EXISTS (SELECT 1 FROM tasks WHERE state = 1 AND due <= ?)"
    " OR EXISTS (SELECT 1 FROM queues WHERE held_until > 0 AND held_until <= ?),"
    " EXISTS (SELECT 1 FROM workers WHERE name = ?),"
    " EXISTS (SELECT 1 FROM tasks WHERE last_chance = 1),"
    " EXISTS (SELECT 1 FROM budgets WHERE spent),"
    " EXISTS (SELECT 1 FROM policy_followers),"
    f" {_counter('outbox')}, {_counter('outbox_bytes')}, {_counter('turn')}"
)


def circumstances(db: sqlite3.Connection, worker: Worker, now: float) -> Circumstances:
    """End expired leases, delays and cooldowns, and return the circumstances of a claim."""
    found = Circumstances.read(db, worker, now)
    if not (found.lapsed or found.due):
        return found
    end_lapsed_workers(db)
    _wake_delayed(db, now)
    _end_cooldowns(db, now)
    return Circumstances.read(db, worker, now)


def _wake_delayed(db: sqlite3.Connection, now: float) -> None:
    """Requeue tasks whose delay is over."""
    due = db.execute(
        "UPDATE tasks SET state = 0, due = NULL WHERE state = 1 AND due <= ? RETURNING qid",
        (now,),
    ).fetchall()
    db.executemany(
        "UPDATE queues SET delayed = delayed - 1, waiting = waiting + 1 WHERE qid = ?", due
    )


def _end_cooldowns(db: sqlite3.Connection, now: float) -> None:
    """Make queues ready again whose cooldown is over."""
    db.execute(
        "UPDATE queues SET held_until = 0 WHERE held_until > 0 AND held_until <= ?",
        (now,),
    )
