"""Claiming: leases a worker the next tasks of its queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.records import Claim
from agentpipe.brokers.sqlite.budgets import park, spent_runs
from agentpipe.brokers.sqlite.circumstances import circumstances
from agentpipe.brokers.sqlite.fairness import Turns
from agentpipe.brokers.sqlite.policy_units import UnitStarts
from agentpipe.brokers.sqlite.queries import RAISE_COUNTER, counter
from agentpipe.brokers.sqlite.suspects import (
    SELECT_CLAIMABLE,
    holds_suspect,
    is_idle,
    must_become_idle,
    next_suspect,
)
from agentpipe.connections.sqlite_rows import execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.records import ClaimRequest, Worker
    from agentpipe.brokers.sqlite.circumstances import Circumstances
    from agentpipe.brokers.sqlite.fairness import Ready
    from agentpipe.brokers.sqlite.lanes import Lanes
    from agentpipe.brokers.sqlite.suspects import Suspect

# Takes the number of claims from a queue, its turn, and the queue.
_NOTE_CLAIMED = (
    "UPDATE queues SET waiting = waiting - column1, running = running + column1, turn = column2"
    " FROM (VALUES {}) WHERE qid = column3"
)
# The next task of each queue, if no task is restricted to certain workers.
_SELECT_FIRSTS = (
    "SELECT json_group_array(json_array(value, (SELECT seq FROM tasks WHERE qid = value"
    " AND state = 0 ORDER BY priority, seq LIMIT 1))) FROM json_each(?)"
)


def claim_tasks(
    db: sqlite3.Connection, request: ClaimRequest, lanes: Lanes, now: float
) -> list[Claim]:
    """Lease tasks to the worker; see ``Store.claim``.

    Also ends leases, delays and cooldowns that are over. ``now`` is the store's time.
    """
    worker, found = request.worker, circumstances(db, request.worker, now)
    if not found.known:
        return []  # Its lease expired: its next heartbeat reports that.
    if request.outbox.reached_by(found.outbox, found.outbox_bytes):
        return []
    if found.last_chances:
        if holds_suspect(db, worker):
            return []
        if suspect := next_suspect(db, worker):
            if is_idle(db, worker):
                return _claim_suspect(db, worker, suspect, now)
            if must_become_idle(db, worker):
                return []
    return _claim_in_turn(db, request, lanes, found)


def _claim_suspect(
    db: sqlite3.Connection, worker: Worker, suspect: Suspect, now: float
) -> list[Claim]:
    if park(db, suspect.qid, [suspect.task_id], spent_runs(db)):
        return []
    turn = _last_turn(db) + 1
    execute_rows(db, _NOTE_CLAIMED, [(1, turn, suspect.qid)])
    _keep_turn(db, turn)
    return _claim(db, worker, {suspect.seq: suspect.queue}, now)


def _claim_in_turn(
    db: sqlite3.Connection, request: ClaimRequest, lanes: Lanes, found: Circumstances
) -> list[Claim]:
    """Claim from the worker's ready queues, least recently served first; at most its share."""
    worker, limit = request.worker, request.limit
    turns = Turns(db, worker, lanes, limit, last_chances=found.last_chances)
    ready = turns.queues
    if request.held is not None:
        limit = min(limit, _even_share(db, worker, len(ready)) - request.held)
        ready = ready[: max(0, limit)]
    return _claim_from(db, worker, turns, ready, limit=limit, found=found) if ready else []


def _even_share(db: sqlite3.Connection, worker: Worker, ready: int) -> int:
    """Return the even share of each worker with the same queues."""
    peers = "SELECT p.name FROM workers w JOIN workers p USING (serves) WHERE w.name = ?"
    (workers,) = db.execute(f"SELECT count(*) FROM ({peers})", (worker.name,)).fetchone()
    (running,) = db.execute(
        f"SELECT count(*) FROM tasks WHERE state = 2 AND worker IN ({peers})", (worker.name,)
    ).fetchone()
    return int(-(-(running + ready) // max(1, workers)))


def _claim_from(
    db: sqlite3.Connection,
    worker: Worker,
    turns: Turns,
    ready: Sequence[Ready],
    *,
    limit: int,
    found: Circumstances,
) -> list[Claim]:
    """Claim an equal share from each of these queues; leave the rest to a later claim."""
    choice = _Choice(db, worker, ready, found)
    turn, claims = found.turn or _last_turn(db), list[Claim]()
    chosen: dict[int, str] = {}
    served: list[tuple[int, int, int]] = []
    for at, queue in enumerate(ready):
        left = limit - len(claims) - len(chosen)
        share = max(1, left // (len(ready) - at))
        seqs = choice.of(queue, min(turns.room(queue), share))
        turns.took(queue, len(seqs))
        chosen |= dict.fromkeys(seqs, queue.name)
        if seqs:  # An update that changes nothing would keep waking listeners.
            served.append((len(seqs), turn + at + 1, queue.qid))
        if found.last_chances:  # What the next queue can give depends on what is claimed here.
            claims += _claim(db, worker, chosen, found.now)
            chosen = {}
    claims += _claim(db, worker, chosen, found.now)
    if claims:
        execute_rows(db, _NOTE_CLAIMED, served)
        _keep_turn(db, turn + len(ready))
    return claims


class _Choice:
    """Chooses each queue's next tasks that may start, for one claim; parks those that may not."""

    def __init__(
        self,
        db: sqlite3.Connection,
        worker: Worker,
        ready: Sequence[Ready],
        found: Circumstances,
    ) -> None:
        self._db, self._worker = db, worker
        self._spent = spent_runs(db) if found.spent else frozenset[str]()
        self._starts = UnitStarts(db) if found.policies else None
        is_plain = not (found.last_chances or self._spent or self._starts)
        self._firsts = _firsts(db, ready) if is_plain else {}

    def of(self, queue: Ready, number: int) -> list[int]:
        """Return up to ``number`` tasks of the queue; at most one is in its last chance."""
        if number == 1 and (first := self._firsts.get(queue.qid)):
            return first
        rows = self._candidates(queue, number)
        while self._spent and park(self._db, queue.qid, [it for *_, it in rows], self._spent):
            rows = self._candidates(queue, number)
        while self._starts and self._starts.start_or_park(queue.qid, rows):
            rows = self._candidates(queue, number)
        alone = next((seq for seq, last_chance, _ in rows if last_chance), None)
        return [seq for seq, last_chance, _ in rows if not last_chance or seq == alone]

    def _candidates(self, queue: Ready, number: int) -> list[Any]:
        """Return rows of task, whether it is in its last chance, and id."""
        choose = (queue.qid, self._worker.name, number)
        return self._db.execute(SELECT_CLAIMABLE, choose).fetchall()


def _firsts(db: sqlite3.Connection, ready: Sequence[Ready]) -> dict[int, list[int]]:
    """Return the next task of each of these queues, with one query."""
    qids = orjson.dumps([queue.qid for queue in ready]).decode()
    (found,) = db.execute(_SELECT_FIRSTS, (qids,)).fetchone()
    return {qid: [seq] for qid, seq in orjson.loads(found) if seq is not None}


def _claim(
    db: sqlite3.Connection, worker: Worker, queues: Mapping[int, str], now: float
) -> list[Claim]:
    """Lease tasks to the worker; ``queues`` maps each task's ``seq`` to its queue."""
    if not queues:
        return []
    rows = db.execute(
        "UPDATE tasks SET state = 2, worker = ?, number = number + 1, claimed_at = ?"
        " WHERE seq IN (SELECT value FROM json_each(?)) RETURNING seq, id,"
        " (SELECT body FROM payloads p WHERE p.seq = tasks.seq), number,"
        " failures, crashes, submitted_at, cancelled, cooled_s",
        (worker.name, now, orjson.dumps(list(queues)).decode()),
    ).fetchall()
    claims = {row[0]: _claim_of(row, queues[row[0]], worker) for row in rows}
    return [claims[seq] for seq in queues]  # In claim order: RETURNING has no order.


def _claim_of(row: Sequence[Any], queue: str, worker: Worker) -> Claim:
    _, task_id, payload, number, failures, crashes, submitted_at, cancelled, cooled_s = row
    before = number, failures, crashes, submitted_at
    return Claim(task_id, queue, payload, worker.name, *before, bool(cancelled), cooled_s)


def _last_turn(db: sqlite3.Connection) -> int:
    """Return the highest turn given; initially, and in older files, searched in the queues."""
    turn = counter(db, "turn")
    if not turn:
        (turn,) = db.execute("SELECT coalesce(max(turn), 0) FROM queues").fetchone()
    return int(turn)


def _keep_turn(db: sqlite3.Connection, turn: int) -> None:
    db.execute(RAISE_COUNTER, ("turn", turn)).fetchall()
