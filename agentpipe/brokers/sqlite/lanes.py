"""Lanes: the parts of the index of ready queues that a worker has to look at.

A lane has the queues of a collection, or a single queue outside any; those of a concurrency group
(in SQL: a gate) have one of their own. Whatever waits in the lanes of others costs a claim nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.sqlite.tables import SELECT_CANCELLED, counter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from agentpipe.brokers.records import Worker

# Declaring raises the counter ``shape``; a process of an earlier version does not.
TRUST_S = 10.0
_OWN = "FROM queues WHERE name IN (SELECT value FROM json_each(?))"
_SELECT_LANES = f"SELECT DISTINCT coalesce(collection, name) {_OWN} AND gate IS NULL"
_SELECT_GATES = f"SELECT DISTINCT gate {_OWN} AND gate IS NOT NULL"
# Whether anything is ready in any of these lanes or groups.
IS_ANYTHING_READY = (
    "EXISTS (SELECT 1 FROM json_each(?) l WHERE EXISTS (SELECT 1 FROM queues"
    " WHERE ready AND gate IS NULL AND coalesce(collection, name) = l.value))"
    " OR EXISTS (SELECT 1 FROM json_each(?) l JOIN gates g ON g.name = l.value"
    " WHERE g.ready > 0 AND g.running < g.capacity)"
)
# Whether any worker could claim something, or has to cancel a run.
CONCERNS_OTHERS = (
    "SELECT EXISTS (SELECT 1 FROM queues WHERE ready AND gate IS NULL)"
    " OR EXISTS (SELECT 1 FROM gates WHERE ready > 0 AND running < capacity)"
    f" OR EXISTS ({SELECT_CANCELLED})"
)


@dataclass(frozen=True, slots=True)
class Lanes:
    """Those of one worker, as JSON lists for queries.

    Attributes:
        queues: All queues that it serves.
        plain: Lanes of queues without a group.
        gates: Its concurrency groups.
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
        """From the table of queues, which takes longer the more of them the worker serves."""
        own = _json(worker.queues)
        plain, gates = (
            _json(name for (name,) in db.execute(query, (own,)))
            for query in (_SELECT_LANES, _SELECT_GATES)
        )
        return cls(own, plain, gates, shape, time.monotonic())

    def holds(self, shape: int) -> bool:
        """Whether they are still as they were read."""
        return self.shape == shape and time.monotonic() - self.read_at < TRUST_S


class LanesKept:
    """What is known of each worker's lanes, until queues are declared."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[frozenset[str], Lanes]] = {}

    def of(self, db: sqlite3.Connection, worker: Worker) -> Lanes:
        """The worker's lanes."""
        shape = counter(db, "shape")
        queues, lanes = self._known.get(worker.name, (None, None))
        # Comparing sets takes as long as they are large, also of a set with itself.
        other = queues is not worker.queues and queues != worker.queues
        if lanes is None or other or not lanes.holds(shape):
            lanes = Lanes.read(db, worker, shape)
            self._known[worker.name] = (worker.queues, lanes)
        return lanes

    def forget(self, worker: Worker) -> None:
        """The worker leaves."""
        self._known.pop(worker.name, None)


def _json(names: Iterable[str]) -> str:
    return orjson.dumps(sorted(names)).decode()
