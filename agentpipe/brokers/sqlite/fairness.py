"""Fairness: which queues a worker claims from next, least recently served first.

A lane is read only when it is its first queue's turn. A full concurrency group costs nothing,
however many queues it has. In SQL a group is a ``gate``.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from agentpipe.brokers.sqlite.suspects import SELECT_CLAIMABLE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from agentpipe.brokers.records import Worker
    from agentpipe.brokers.sqlite.lanes import Lanes

_COLUMNS = "turn, qid, name, concurrency - running, gate"
_LANE = (
    f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate IS NULL"
    " AND coalesce(collection, name) = ? ORDER BY turn"
)
_GROUP = f"SELECT {_COLUMNS} FROM queues WHERE ready AND gate = ? ORDER BY turn"
_OPEN_LANES = (
    "SELECT (SELECT turn FROM queues q WHERE ready AND gate IS NULL"
    " AND coalesce(collection, name) = l.value ORDER BY turn LIMIT 1) AS turn, l.value"
    " FROM json_each(?) l WHERE turn IS NOT NULL"
)
_OPEN_GROUPS = (
    "SELECT (SELECT turn FROM queues q WHERE q.ready AND q.gate = g.name ORDER BY turn LIMIT 1)"
    " AS turn, g.name, g.capacity - g.running FROM json_each(?) l JOIN gates g ON g.name = l.value"
    " WHERE g.ready > 0 AND g.running < g.capacity"
)
_OWN = f"SELECT {_COLUMNS} FROM json_each(?) JOIN queues ON name = value WHERE ready ORDER BY turn"
# Up to this many queues are checked one by one, which is faster than by lanes.
FEW = 24


class Ready(NamedTuple):
    """A queue with a task and room for a run.

    Attributes:
        turn: When it was last served.
        room: How many more runs its own limit allows.
    """

    turn: int
    qid: int
    name: str
    room: int
    group: str | None


class Turns:
    """Selects up to ``limit`` of a worker's ready queues whose concurrency group has room."""

    def __init__(
        self,
        db: sqlite3.Connection,
        worker: Worker,
        lanes: Lanes,
        limit: int,
        *,
        last_chances: bool,
    ) -> None:
        self._db, self._worker, self._lanes = db, worker, lanes
        self.queues: list[Ready] = []
        groups = db.execute(_OPEN_GROUPS, (lanes.gates,)).fetchall() if lanes.has_gates else []
        # The room left in each group if every selected queue gets one run.
        self._spare: dict[str, int] = {name: room for _, name, room in groups}
        self._restricted = last_chances and self._has_last_chances()
        for row in self._in_turn(groups):
            if len(self.queues) == limit:
                break
            queue = Ready(*row)
            if not self._restricted or self._gives(queue):
                self._add(queue)

    def _has_last_chances(self) -> bool:
        query = "SELECT EXISTS (SELECT 1 FROM tasks WHERE last_chance = 1 AND state = 0)"
        return bool(self._db.execute(query).fetchone()[0])

    def _gives(self, queue: Ready) -> bool:
        """Whether it has a task that this worker can claim in addition to its current runs."""
        values = (queue.qid, self._worker.name, 1)
        return self._db.execute(SELECT_CLAIMABLE, values).fetchone() is not None

    def _in_turn(self, groups: list[Any]) -> Iterator[Any]:
        """Yield the worker's ready queues by turn, while their groups have room."""
        own = self._worker.queues
        if len(own) <= FEW:
            yield from self._one_by_one(set())
            return
        others, seen = 0, set[int]()
        for row in self._by_lanes(groups):
            if row[2] in own:
                seen.add(row[1])
                yield row
            elif (others := others + 1) > len(own):  # Other workers serve most of a collection.
                yield from self._one_by_one(seen)
                return

    def _one_by_one(self, seen: set[int]) -> Iterator[Any]:
        rows = self._db.execute(_OWN, (self._lanes.queues,))
        return (row for row in rows if row[1] not in seen)

    def _by_lanes(self, groups: list[Any]) -> Iterator[Any]:
        """Yield all queues of the lanes by turn; a lane is read only at its first queue's turn."""
        open_lanes = self._db.execute(_OPEN_LANES, (self._lanes.plain,)).fetchall()
        lanes = [(turn, _LANE, name) for turn, name in open_lanes]
        later = deque(sorted([*lanes, *((turn, _GROUP, name) for turn, name, _ in groups)]))
        next_rows: list[tuple[Any, int]] = []  # The next queue of each open lane.
        read: list[Iterator[Any]] = []
        while later or next_rows:
            if later and (not next_rows or later[0][0] < next_rows[0][0][0]):
                _, query, name = later.popleft()
                read.append(self._db.execute(query, (name,)))
                at = len(read) - 1
            else:
                row, at = heapq.heappop(next_rows)
                yield row
                if row[-1] is not None and not self._spare[row[-1]]:
                    continue
            if (row := next(read[at], None)) is not None:
                heapq.heappush(next_rows, (row, at))

    def _add(self, queue: Ready) -> None:
        if queue.group is not None:
            if not self._spare.get(queue.group):
                return
            self._spare[queue.group] -= 1
        self.queues.append(queue)

    def room(self, queue: Ready) -> int:
        """Return how many runs the queue and its group allow now."""
        if queue.group is None:
            return queue.room
        return min(queue.room, 1 + self._spare[queue.group])

    def took(self, queue: Ready, runs: int) -> None:
        """Record how many runs were claimed from a selected queue."""
        if queue.group is not None:
            self._spare[queue.group] += 1 - runs
