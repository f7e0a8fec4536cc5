"""Lanes: the parts of the index of ready queues that a worker has to read.

A lane has the queues of a collection, or one queue outside any collection. Each concurrency group
(in SQL: a gate) has its own lane. Tasks in other workers' lanes cost a claim nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.sqlite.queries import SELECT_CANCELLED, counter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from agentpipe.brokers.records import Worker

# How long cached lanes are trusted. A declaration increments the counter ``shape``, which
# invalidates them, but processes of older versions do not increment it.
TRUST_S = 10.0
_OWN = "FROM queues WHERE name IN (SELECT value FROM json_each(?))"
_SELECT_LANES = f"SELECT DISTINCT coalesce(collection, name) {_OWN} AND gate IS NULL"
_SELECT_GATES = f"SELECT DISTINCT gate {_OWN} AND gate IS NOT NULL"
# Whether any queue is ready in these lanes or groups.
IS_ANYTHING_READY = (
    "EXISTS (SELECT 1 FROM json_each(?) l WHERE EXISTS (SELECT 1 FROM queues"
    " WHERE ready AND gate IS NULL AND coalesce(collection, name) = l.value))"
    " OR EXISTS (SELECT 1 FROM json_each(?) l JOIN gates g ON g.name = l.value"
    " WHERE g.ready > 0 AND g.running < g.capacity)"
)
# Whether any worker can claim a task or has to cancel a run.
CONCERNS_OTHERS = (
    "SELECT EXISTS (SELECT 1 FROM queues WHERE ready AND gate IS NULL)"
    " OR EXISTS (SELECT 1 FROM gates WHERE ready > 0 AND running < capacity)"
    f" OR EXISTS ({SELECT_CANCELLED})"
)


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of one worker, as JSON lists for queries.

    Attributes:
        queues: All queues that it serves.
        plain: Lanes of queues without a concurrency group.
        gates: Concurrency groups of its queues.
        shape: The counter ``shape`` when they were read.
        read_at: When they were read, on the monotonic clock.
    """

    queues: str
    plain: str
    gates: str
    shape: int
    read_at: float

    @property
    def has_gates(self) -> bool:
        """Whether any of its queues is in a concurrency group."""
        return self.gates != "[]"

    @classmethod
    def read(cls, db: sqlite3.Connection, worker: Worker, shape: int) -> Lanes:
        """Read them from the table of queues; the cost grows with the worker's queues."""
        own = _json(worker.queues)
        plain, gates = (
            _json(name for (name,) in db.execute(query, (own,)))
            for query in (_SELECT_LANES, _SELECT_GATES)
        )
        return cls(own, plain, gates, shape, time.monotonic())

    def holds(self, shape: int) -> bool:
        """Whether they are still valid."""
        return self.shape == shape and time.monotonic() - self.read_at < TRUST_S


class LanesKept:
    """A cache of each worker's lanes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[frozenset[str], Lanes]] = {}

    def of(self, db: sqlite3.Connection, worker: Worker) -> Lanes:
        """Return the worker's lanes."""
        shape = counter(db, "shape")
        queues, lanes = self._known.get(worker.name, (None, None))
        # Check identity first: comparing sets takes linear time, even a set with itself.
        other = queues is not worker.queues and queues != worker.queues
        if lanes is None or other or not lanes.holds(shape):
            lanes = Lanes.read(db, worker, shape)
            self._known[worker.name] = (worker.queues, lanes)
        return lanes

    def forget(self, worker: Worker) -> None:
        """Drop the lanes of a worker that leaves."""
        self._known.pop(worker.name, None)


def _json(names: Iterable[str]) -> str:
    return orjson.dumps(sorted(names)).decode()
