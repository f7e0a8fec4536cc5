"""Declaring: queues with their limits, and their round-robin groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Source, is_outdated
from agentpipe.brokers.sqlite.budgets import changed_budgets, declare_budgets
from agentpipe.brokers.sqlite.policy_changes import DeclaredPolicies
from agentpipe.brokers.sqlite.queries import SET_PAUSES, add_to_counters
from agentpipe.brokers.statistics import Declared

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue

# The counts of a concurrency group (table gates) are sums over its queues, so that a claim need not
# read each queue. A trigger updates them with every change of a queue. It slows every task down, so
# it is created only with the first group.
_WITH_GATES = (
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
_SELECT_DECLARED = (
    "SELECT name, collection, position, max_waiting, concurrency, max_crashes, gate,"
    " (SELECT capacity FROM gates g WHERE g.name = gate) FROM queues"
)
_UPSERT_QUEUE = (
    "INSERT INTO queues (name, collection, position, max_waiting, concurrency, max_crashes, gate)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
    " collection = excluded.collection, position = excluded.position,"
    " max_waiting = excluded.max_waiting, concurrency = excluded.concurrency,"
    " max_crashes = excluded.max_crashes, gate = excluded.gate"
)
_UPSERT_GATE = (
    "INSERT INTO gates (name, capacity) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET capacity = excluded.capacity"
)
_SELECT_SOURCES = "SELECT collection, role, fingerprint, place, edited_us, config_us FROM sources"
_UPSERT_SOURCE = "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)"


def read_sources(db: sqlite3.Connection) -> tuple[Declared, ...]:
    """Return who declared which collection."""
    rows = db.execute(f"{_SELECT_SOURCES} ORDER BY collection, role")
    return tuple(
        Declared(collection, role, Source(digest, place, edited_us, config_us, role == "worker"))
        for collection, role, digest, place, edited_us, config_us in rows
    )


class QueueChanges:
    """The changes that a declaration of queues makes."""

    def __init__(self, db: sqlite3.Connection, queues: Sequence[Queue]) -> None:
        self._db = db
        known = {(it.collection, str(it.by)): it.source for it in read_sources(db)}
        given = {it.collection: it.source for it in queues if it.collection and it.source}
        groups = {name: known.get((name, "group")) for name in given}
        outdated = {name for name, it in given.items() if is_outdated(it, groups[name])}
        kept = [queue for queue in queues if queue.collection not in outdated]
        self._wanted = {row[0]: row for row in _queue_rows(kept)}
        self._rings = {row[1] for row in self._wanted.values() if row[1]}
        self._budgets = changed_budgets(db, kept)
        self._policies = DeclaredPolicies(db, kept)
        self._sources = _changed_sources(given, outdated, known)

    def is_new(self) -> bool:
        """Whether it changes anything."""
        found = {row[0]: tuple(row) for row in self._db.execute(_SELECT_DECLARED)}
        left = any(
            ring in self._rings and position is not None and name not in self._wanted
            for name, (_, ring, position, *_) in found.items()
        )
        same = all(found.get(name) == row for name, row in self._wanted.items())
        return bool(self._sources or self._budgets or self._policies) or left or not same

    def carry_out(self) -> None:
        """Apply the changes."""
        db, rows = self._db, self._wanted.values()
        for ring in self._rings:
            db.execute("UPDATE queues SET position = NULL WHERE collection = ?", (ring,))
        gates = {gate: limit for *_, gate, limit in rows if gate is not None}
        for statement in _WITH_GATES if gates else ():
            db.execute(statement)
        db.executemany(_UPSERT_GATE, gates.items())
        db.executemany(_UPSERT_QUEUE, [row[:-1] for row in rows])
        db.executemany(_UPSERT_SOURCE, self._sources)
        declare_budgets(db, self._budgets)
        self._policies.carry_out()
        db.execute(SET_PAUSES)
        add_to_counters(db, {"shape": 1})


def _queue_rows(queues: Iterable[Queue]) -> Iterable[tuple[Any, ...]]:
    """Yield a row of ``_SELECT_DECLARED`` for each queue; positions are per collection.

    Without its end, the limit of the concurrency group, it is a row for ``_UPSERT_QUEUE``.
    """
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


def _changed_sources(
    given: Mapping[str, Source], outdated: set[str], known: Mapping[tuple[str, str], Source]
) -> list[tuple[str, str, str, str, int, int]]:
    """Return rows for the sources that differ from the stored ones."""
    rows = []
    for name, source in given.items():
        roles = ["worker" if source.serves else "sender"]
        roles += [] if name in outdated else ["group"]
        for role in roles:
            row = (source.fingerprint, source.place, source.edited_us, source.config_us)
            before = known.get((name, role))
            if before is None or _row(before) != row:
                rows.append((name, role, *row))
    return rows


def _row(source: Source) -> tuple[str, str, int, int]:
    return source.fingerprint, source.place, source.edited_us, source.config_us
