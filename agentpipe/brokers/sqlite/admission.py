"""Admission: assigns offered tasks to queues, round-robin and up to their bounds."""

from __future__ import annotations

import time
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.records import Admission
from agentpipe.brokers.sqlite.queries import DELAYED, WAITING, add_to_counters

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.records import Offer, Verdict

# Delayed tasks count: they will wait later.
_ROOM = "max_waiting - waiting - delayed"

# Payload bytes per statement; a single larger payload gets a statement of its own.
TOGETHER_BYTES = 16 * 1024 * 1024
# One statement per batch, because Python reacquires the GIL after each statement, while the sender
# builds the next batch. Payloads are one blob; each one's offset and size (the low bits) are packed
# into an integer.
_SIZE_BITS = 32
_INSERT_TASKS = (
    "INSERT INTO tasks (seq, submitted_at, id, qid, state, priority, due) SELECT ?1 + key, ?2,"
    + ", ".join(f"json_extract(value, '$[{place}]')" for place in range(5))
    + " FROM json_each(?3)"
)
_INSERT_PAYLOADS = (
    f"INSERT INTO payloads SELECT ?1 + key, coalesce(substr(?2, value >> {_SIZE_BITS},"
    f" value & {(1 << _SIZE_BITS) - 1}), x'') FROM json_each(?3)"
)


class Rooms:
    """The queues of one offer with room: selects them round-robin, each up to its bound.

    Starts at the group's cursor. Without ``round_robin``, the target is the only queue.
    """

    def __init__(
        self, db: sqlite3.Connection, target: str, wanted: int, *, round_robin: bool
    ) -> None:
        self._db, self._target, self._group = db, target, target if round_robin else None
        if round_robin:
            row = db.execute("SELECT cursor FROM rings WHERE collection = ?", (target,)).fetchone()
            self._cursor = row[0] if row else 0
            self._free = self._of_group(target, wanted)
        else:
            self._cursor = 0
            self._free = db.execute(
                f"SELECT qid, {_ROOM}, 0 FROM queues WHERE name = ? AND {_ROOM} > 0",
                (target,),
            ).fetchall()
        self._free.reverse()
        self._later: list[tuple[int, int, int]] = []

    def _of_group(self, target: str, wanted: int) -> list[tuple[int, int, int]]:
        """Return up to ``wanted`` queues with room, in order from the cursor."""
        query = (
            f"SELECT qid, {_ROOM}, position FROM queues WHERE collection = ?"
            f" AND position IS NOT NULL AND {_ROOM} > 0 AND position {{}} ?"
            " ORDER BY position LIMIT ?"
        )
        ahead = self._db.execute(query.format(">="), (target, self._cursor, wanted)).fetchall()
        behind = self._db.execute(
            query.format("<"), (target, self._cursor, wanted - len(ahead))
        ).fetchall()
        return ahead + behind

    def next_queue(self) -> int | None:
        """Return the queue for the next task; None if all are full."""
        if not self._free:
            self._free, self._later = self._later[::-1], []
        if not self._free:
            return None
        qid, room, position = self._free.pop()
        if room > 1:
            self._later.append((qid, room - 1, position))
        self._cursor = position + 1
        return qid

    @property
    def room(self) -> int:
        """The remaining room: at least this many more tasks find a queue."""
        return sum(room for _, room, _ in (*self._free, *self._later))

    def sure_queue(self) -> int:
        """Return the queue for the next task, at most ``room`` times."""
        qid = self.next_queue()
        assert qid is not None
        return qid

    def target_queue(self) -> int | None:
        """Return the target itself, full or not; None if it is not declared."""
        row = self._db.execute("SELECT qid FROM queues WHERE name = ?", (self._target,)).fetchone()
        return None if row is None else int(row[0])

    def advance(self) -> None:
        """Store where the next offer starts."""
        if self._group is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO rings VALUES (?, ?)", (self._group, self._cursor)
            )


def known_ids(db: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Return the ids that are unsettled or still remembered."""
    rows = db.execute(
        "SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?))",
        (orjson.dumps(ids).decode(),),
    )
    return {row[0] for row in rows}


def judge(
    offers: Sequence[Offer], known: set[str], rooms: Rooms
) -> tuple[list[Verdict], list[tuple[Offer, int]]]:
    """Return a verdict for each offer, and the accepted offers with their queues.

    Adds the ids of accepted offers to ``known``.
    """
    verdicts: list[Verdict] = []
    admitted: list[tuple[Offer, int]] = []
    for offer in offers:
        if offer.task_id in known:
            verdicts.append("duplicate")
        elif (qid := rooms.next_queue() if offer.bounded else rooms.target_queue()) is None:
            verdicts.append("refused")
        else:
            known.add(offer.task_id)
            admitted.append((offer, qid))
            verdicts.append("accepted")
    return verdicts, admitted


def no_pause() -> None:
    """Do nothing: for a caller that does not count the pauses."""


def admit(
    db: sqlite3.Connection,
    admitted: Sequence[tuple[Offer, int]],
    moment: float,
    note_pause: Callable[[], None] = no_pause,
) -> None:
    """Store the offers in their queues; ``moment`` is the store's time.

    Calls ``note_pause`` before each long statement, which releases the GIL.
    """
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM tasks").fetchone()
    rows: list[tuple[str, int, int, int, float | None]] = []
    grown: dict[tuple[int, int], int] = {}
    for offer, qid in admitted:
        state, due = (DELAYED, moment + offer.delay_s) if offer.delay_s > 0 else (WAITING, None)
        rows.append((offer.task_id, qid, state, offer.priority, due))
        grown[qid, state] = grown.get((qid, state), 0) + 1
    for (qid, state), number in grown.items():
        column = "delayed" if state == DELAYED else "waiting"
        db.execute(f"UPDATE queues SET {column} = {column} + ? WHERE qid = ?", (number, qid))
    add_to_counters(db, {"accepted": len(admitted)})
    tasks = (last + 1, time.time(), orjson.dumps(rows).decode())
    note_pause()
    db.execute(_INSERT_TASKS, tasks)
    for portion in _together(last + 1, [offer.payload for offer, _ in admitted]):
        note_pause()
        db.execute(_INSERT_PAYLOADS, portion)


def _together(seq: int, payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes, str]]:
    """Yield values for ``_INSERT_PAYLOADS``."""
    while payloads:
        ends = list(accumulate(map(len, payloads)))
        number = bisect_right(ends, TOGETHER_BYTES) or 1
        portion, payloads = payloads[:number], payloads[number:]
        places = [1, *(end + 1 for end in ends)]
        packed = [at << _SIZE_BITS | len(body) for at, body in zip(places, portion, strict=False)]
        yield seq, b"".join(portion), orjson.dumps(packed).decode()
        seq += number


def admission_of(
    db: sqlite3.Connection, target: str, verdicts: Sequence[Verdict], *, round_robin: bool
) -> Admission:
    """Return the verdicts with the target's depth and bound, which only a refused sender needs."""
    is_full = "refused" in verdicts
    depth, bound = _depth_and_bound(db, target, round_robin=round_robin) if is_full else (0, 0)
    return Admission(tuple(verdicts), depth, bound)


def _depth_and_bound(db: sqlite3.Connection, target: str, *, round_robin: bool) -> tuple[int, int]:
    """Return the depth and bound of a queue or a round-robin group."""
    where = "collection = ? AND position IS NOT NULL" if round_robin else "name = ?"
    depth, bound = db.execute(
        "SELECT coalesce(sum(waiting + delayed), 0), coalesce(sum(max_waiting), 0)"
        f" FROM queues WHERE {where}",
        (target,),
    ).fetchone()
    return depth, bound
