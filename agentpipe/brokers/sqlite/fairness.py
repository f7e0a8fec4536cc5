"""Fairness: which queues a worker claims from next, the longest unserved first.

Queues without a concurrency group are in one index by turn, those of each group in a part of
another: a full group costs nothing, however many queues it has. In SQL a group is a ``gate``.
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
_UNGROUPED = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate IS NULL ORDER BY turn"
_GROUPED = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate = ? ORDER BY turn"
_OPEN_GROUPS = (
    "SELECT (SELECT turn FROM queues q WHERE ready AND gate = g.name ORDER BY turn LIMIT 1)"
    " AS turn, name,"
    " capacity - running FROM gates g WHERE ready > 0 AND running < capacity ORDER BY turn"
)


class Ready(NamedTuple):
    """A queue with a task and room for a run.

    Attributes:
        turn: When it was served last.
        room: Runs that its own limit allows.
    """

    turn: int
    qid: int
    name: str
    room: int
    group: str | None


class Turns:
    """Up to ``limit`` queues of a worker, each with room for a run in its concurrency group."""

    def __init__(self, db: sqlite3.Connection, worker: Worker, limit: int) -> None:
        self.queues: list[Ready] = []
        groups = db.execute(_OPEN_GROUPS).fetchall()
        # The room left in each group if every chosen queue gets one run.
        self._spare: dict[str, int] = {name: room for _, name, room in groups}
        for row in self._in_turn(db, groups):
            if len(self.queues) == limit:
                break
            if row[2] in worker.queues:
                self._add(Ready(*row))

    def _in_turn(self, db: sqlite3.Connection, groups: Sequence[Any]) -> Iterator[Any]:
        """All ready queues by turn, as far as their groups have room."""
        ungrouped = db.execute(_UNGROUPED)
        return heapq.merge(ungrouped, self._grouped(db, groups)) if groups else ungrouped

    def _grouped(self, db: sqlite3.Connection, groups: Sequence[Any]) -> Iterator[Any]:
        """Read a group only when the first of its queues has its turn."""
        later = deque(groups)
        first_rows: list[Any] = []  # The next queue of each group that has been read.
        others: dict[str, Iterator[Any]] = {}
        while later or first_rows:
            if later and (not first_rows or later[0][0] < first_rows[0][0]):
                group = later.popleft()[1]
                others[group] = db.execute(_GROUPED, (group,))
            else:
                row = heapq.heappop(first_rows)
                yield row
                group = row[-1]
            if self._spare[group] and (row := next(others[group], None)) is not None:
                heapq.heappush(first_rows, row)

    def _add(self, queue: Ready) -> None:
        if queue.group is not None:
            if not self._spare[queue.group]:
                return
            self._spare[queue.group] -= 1
        self.queues.append(queue)

    def room(self, queue: Ready) -> int:
        """The runs that the queue and its group allow now."""
        if queue.group is None:
            return queue.room
        return min(queue.room, 1 + self._spare[queue.group])

    def took(self, queue: Ready, runs: int) -> None:
        """Note how many runs were claimed from a chosen queue."""
        if queue.group is not None:
            self._spare[queue.group] += 1 - runs
