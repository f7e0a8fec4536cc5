"""Turns: which queues a worker may claim from next, the longest unserved first.

Queues without a gate lie in one index by their turn, those of each gate in a part of another, so
that a gate that is full costs nothing, however many queues wait behind it.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from agentpipe.brokers.store import Worker

_COLUMNS = "turn, qid, name, concurrency - running, gate"
_UNGATED = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate IS NULL ORDER BY turn"
_GATED = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate = ? ORDER BY turn"
_OPEN_GATES = (
    "SELECT (SELECT min(turn) FROM queues q WHERE ready AND gate = g.name) AS turn, name,"
    " capacity - running FROM gates g WHERE ready > 0 AND running < capacity ORDER BY turn"
)


@dataclass(frozen=True, slots=True)
class Ready:
    """A queue with a task and room for a run.

    Attributes:
        room: For so many runs, by its own limit.
    """

    qid: int
    name: str
    room: int
    gate: str | None


class Turns:
    """Up to ``limit`` queues of a worker, each with at least one run left by its gate."""

    def __init__(self, db: sqlite3.Connection, worker: Worker, limit: int) -> None:
        self.queues: list[Ready] = []
        gates = db.execute(_OPEN_GATES).fetchall()
        # What each gate would leave if each queue that was chosen got one run.
        self._spare: dict[str | None, int] = {name: room for _, name, room in gates}
        for _, *row in _in_turn(db, gates):
            if len(self.queues) == limit:
                break
            self._add(Ready(*row), worker)

    def _add(self, queue: Ready, worker: Worker) -> None:
        if queue.name not in worker.queues:
            return
        if queue.gate is not None:
            if not self._spare[queue.gate]:
                return
            self._spare[queue.gate] -= 1
        self.queues.append(queue)

    def room(self, queue: Ready) -> int:
        """For how many runs there is room now, in the queue and in its gate."""
        return min(queue.room, 1 + self._spare.get(queue.gate, queue.room))

    def took(self, queue: Ready, runs: int) -> None:
        """So many were claimed of what there was room for."""
        if queue.gate is not None:
            self._spare[queue.gate] += 1 - runs


def _in_turn(db: sqlite3.Connection, gates: list[tuple[int, str, int]]) -> Iterator[Any]:
    """All that are ready; a gate's are looked for only when the first of them has its turn."""
    ungated = db.execute(_UNGATED)
    return heapq.merge(ungated, _gated(db, gates)) if gates else ungated


def _gated(db: sqlite3.Connection, gates: list[tuple[int, str, int]]) -> Iterator[Any]:
    later = deque(gates)
    first_rows: list[Any] = []  # The next one of each gate that has been looked into.
    others: dict[str, Iterator[Any]] = {}
    while later or first_rows:
        if later and (not first_rows or later[0][0] <= first_rows[0][0]):
            gate = later.popleft()[1]
            others[gate] = db.execute(_GATED, (gate,))
        else:
            row = heapq.heappop(first_rows)
            yield row
            gate = row[-1]
        if (following := next(others[gate], None)) is not None:
            heapq.heappush(first_rows, following)
