"""Moving: moves tasks of agents that left their collection to its current agents."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.sqlite.admission import Rooms
from agentpipe.brokers.sqlite.queries import DELAYED, WAITING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

_REMOVED = (
    "SELECT qid FROM queues WHERE collection = ? AND position IS NULL"
    " AND name IN (SELECT value FROM json_each(?)) ORDER BY name"
)
_WAITING = "SELECT seq FROM tasks WHERE qid = ? AND state = 0 ORDER BY priority, seq LIMIT ?"
_DELAYED = "SELECT seq FROM tasks WHERE qid = ? AND state = 1 LIMIT ?"
_MOVE = (
    "UPDATE tasks SET qid = ?1, last_chance = (crashes > 0 AND crashes + 1 ="
    " (SELECT max_crashes FROM queues q WHERE q.qid = ?1)) WHERE seq = ?2"
)


def move_tasks(db: sqlite3.Connection, collection: str, agents: Sequence[str], limit: int) -> int:
    """See ``MovesTasks.move``."""
    rooms = Rooms(db, collection, limit, round_robin=True)
    changes: Counter[tuple[int, int]] = Counter()
    moved = 0
    for seq, source, state in _candidates(db, collection, agents, limit):
        target = rooms.next_queue()
        if target is None:
            break
        db.execute(_MOVE, (target, seq))
        changes[source, state] -= 1
        changes[target, state] += 1
        moved += 1
    for (qid, state), change in changes.items():
        column = "delayed" if state == DELAYED else "waiting"
        db.execute(f"UPDATE queues SET {column} = {column} + ? WHERE qid = ?", (change, qid))
    if moved:
        rooms.advance()
    return moved


def _candidates(
    db: sqlite3.Connection, collection: str, agents: Sequence[str], limit: int
) -> Iterator[tuple[int, int, int]]:
    """Yield task, queue and state of movable tasks, in the order in which they would run."""
    names = orjson.dumps(list(agents)).decode()
    for (qid,) in db.execute(_REMOVED, (collection, names)).fetchall():
        for query, state in ((_WAITING, WAITING), (_DELAYED, DELAYED)):
            for (seq,) in db.execute(query, (qid, limit)).fetchall():
                yield seq, qid, state
