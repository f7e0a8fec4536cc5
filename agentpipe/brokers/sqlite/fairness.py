"""Turns: which queues a worker may claim from next, the longest unserved first.

Queues without a gate lie in one index by their turn, those of each gate in a part of another, so
that a gate that is full costs nothing, however many queues wait behind it.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.records import Worker

_COLUMNS = "turn, qid, name, concurrency - running, gate"
_UNGATED = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate IS NULL ORDER BY turn"
_GATED = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate = ? ORDER BY turn"
_OPEN_GATES = (
    "SELECT (SELECT turn FROM queues q WHERE ready AND gate = g.name ORDER BY turn LIMIT 1)"
    " AS turn, name,"
    " capacity - running FROM gates g WHERE ready > 0 AND running < capacity ORDER BY turn"
)


class Ready(NamedTuple):
    """A queue with a task and room for a run.

    Attributes:
        turn: When it was served last.
        room: For so many runs, by its own limit.
    """

    turn: int
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
        self._spare: dict[str, int] = {name: room for _, name, room in gates}
        for row in self._in_turn(db, gates):
            if len(self.queues) == limit:
                break
            if row[2] in worker.queues:
                self._add(Ready(*row))

    def _in_turn(self, db: sqlite3.Connection, gates: Sequence[Any]) -> Iterator[Any]:
        """All that are ready, as far as there is room behind their gates."""
        ungated = db.execute(_UNGATED)
        return heapq.merge(ungated, self._gated(db, gates)) if gates else ungated

    def _gated(self, db: sqlite3.Connection, gates: Sequence[Any]) -> Iterator[Any]:
        """Look into a gate only when the first of its queues has its turn."""
        later = deque(gates)
        first_rows: list[Any] = []  # The next one of each gate that has been looked into.
        others: dict[str, Iterator[Any]] = {}
        while later or first_rows:
            if later and (not first_rows or later[0][0] < first_rows[0][0]):
                gate = later.popleft()[1]
                others[gate] = db.execute(_GATED, (gate,))
            else:
                row = heapq.heappop(first_rows)
                yield row
                gate = row[-1]
            if self._spare[gate] and (row := next(others[gate], None)) is not None:
                heapq.heappush(first_rows, row)

    def _add(self, queue: Ready) -> None:
        if queue.gate is not None:
            if not self._spare[queue.gate]:
                return
            self._spare[queue.gate] -= 1
        self.queues.append(queue)

    def room(self, queue: Ready) -> int:
        """For how many runs there is room now, in the queue and in its gate."""
        if queue.gate is None:
            return queue.room
        return min(queue.room, 1 + self._spare[queue.gate])

    def took(self, queue: Ready, runs: int) -> None:
        """So many were claimed of what there was room for."""
        if queue.gate is not None:
            self._spare[queue.gate] += 1 - runs
