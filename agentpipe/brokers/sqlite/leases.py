"""Leases: claims of tasks by workers, and the tasks of workers whose lease expired."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentpipe.brokers.records import Claim
from agentpipe.brokers.sqlite.budgets import park, spent_runs
from agentpipe.brokers.sqlite.fairness import Turns
from agentpipe.brokers.sqlite.policies import Gates
from agentpipe.brokers.sqlite.queries import COUNT_CRASH, LAPSED, RAISE_COUNTER, counter
from agentpipe.brokers.sqlite.served import forget_unserved
from agentpipe.brokers.sqlite.suspects import (
    COUNT_SHARED_CRASH,
    SELECT_CLAIMABLE,
    holds_suspect,
    is_idle,
    must_become_idle,
    next_suspect,
)
from agentpipe.connections.sqlite_rows import execute_rows
from agentpipe.core.text import counted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.records import ClaimRequest, Worker
    from agentpipe.brokers.sqlite.fairness import Ready
    from agentpipe.brokers.sqlite.lanes import Lanes
    from agentpipe.brokers.sqlite.suspects import Suspect

_FROM_THE_START = "nothing could be stored when this process began"


def end_lapsed_workers(db: sqlite3.Connection) -> None:
    """Remove workers whose lease expired; their tasks count a crash."""
    now = time.monotonic()
    lapsed = db.execute(f"SELECT name FROM workers WHERE {LAPSED}", (now, now)).fetchall()
    for (name,) in lapsed:
        end_worker(db, name)


def renew_leases(db: sqlite3.Connection, since: float) -> str:
    """Restart each lease that was alive at ``since``, when writes became impossible.

    At -inf that was before this process began, and all leases restart. Returns what to log; empty
    if there was none.
    """
    now = time.monotonic()
    has_begin = math.isfinite(since)
    renewed = db.execute(
        "UPDATE workers SET beat = ?1 WHERE beat <= ?3 AND ?2 < beat + lease_s",
        (now, since, since if has_begin else now),
    ).rowcount
    if not renewed:
        return ""
    began = f"nothing could be stored for {now - since:.0f} s" if has_begin else _FROM_THE_START
    return f"{began}: {counted(renewed, 'lease')} began anew"


def end_worker(db: sqlite3.Connection, name: str, begun: Sequence[str] | None = None) -> int:
    """Remove the worker and requeue its tasks; returns how many.

    The tasks in ``begun`` count one more crash; None for all of them.
    """
    held = db.execute(
        "SELECT qid, count(*) FROM tasks WHERE state = 2 AND worker = ? GROUP BY qid", (name,)
    ).fetchall()
    number_begun = sum(number for _, number in held) if begun is None else len(begun)
    count = f"{COUNT_SHARED_CRASH} AND" if number_begun > 1 else f"{COUNT_CRASH} WHERE"
    db.execute(
        f"UPDATE tasks {count} state = 2 AND worker = ?1"
        " AND (?2 IS NULL OR id IN (SELECT value FROM json_each(?2)))",
        (name, None if begun is None else orjson.dumps(begun).decode()),
    )
    db.execute("UPDATE tasks SET state = 0, worker = NULL WHERE state = 2 AND worker = ?", (name,))
    db.executemany(
        "UPDATE queues SET running = running - ?1, waiting = waiting + ?1 WHERE qid = ?2",
        [(number, qid) for qid, number in held],
    )
    db.execute("UPDATE outbox SET taker = NULL WHERE taker = ?", (name,))
    db.execute("DELETE FROM workers WHERE name = ?", (name,))
    forget_unserved(db)
    db.execute("DELETE FROM pauses WHERE kind = 'worker' AND name = ?", (name,))
    return sum(number for _, number in held)


def is_known(db: sqlite3.Connection, worker: Worker) -> bool:
    """Whether the worker has joined, has not left, and its lease was not ended."""
    found = db.execute("SELECT 1 FROM workers WHERE name = ?", (worker.name,)).fetchone()
    return found is not None


def wake_delayed(db: sqlite3.Connection, now: float) -> None:
    """Requeue tasks whose delay is over."""
    due = db.execute(
        "UPDATE tasks SET state = 0, due = NULL WHERE state = 1 AND due <= ? RETURNING qid",
        (now,),
    ).fetchall()
    db.executemany(
        "UPDATE queues SET delayed = delayed - 1, waiting = waiting + 1 WHERE qid = ?", due
    )


def end_cooldowns(db: sqlite3.Connection, now: float) -> None:
    """Make queues ready again whose cooldown is over."""
    db.execute(
        "UPDATE queues SET held_until = 0 WHERE held_until > 0 AND held_until <= ?",
        (now,),
    )


class Circumstances(NamedTuple):
    """What a claim depends on besides the queues, read by one query.

    Attributes:
        lapsed: Whether a worker's lease expired.
        due: Whether a delay or a cooldown is over.
        known: Whether the claiming worker is registered.
        last_chances: Whether any task would be ended by one more crash.
        spent: Whether a budget is spent.
        policies: Whether a collection follows a policy.
        outbox: Number of records in the outbox.
        outbox_bytes: Size of the outbox.
        turn: The highest turn given; 0 in a file of an older version.
        now: The store's time.
    """

    lapsed: bool
    due: bool
    known: bool
    last_chances: bool
    spent: bool
    policies: bool
    outbox: int
    outbox_bytes: int
    turn: int
    now: float

    @classmethod
    def read(cls, db: sqlite3.Connection, worker: Worker, now: float) -> Circumstances:
        """Read them; ``now`` is the store's time."""
        moment = time.monotonic()
        values = (moment, moment, now, now, worker.name)
        return cls._make((*db.execute(_SELECT_CIRCUMSTANCES, values).fetchone(), now))


def _counter(name: str) -> str:
    return f"coalesce((SELECT value FROM counters WHERE name = '{name}'), 0)"


_SELECT_CIRCUMSTANCES = (
    f"SELECT EXISTS (SELECT 1 FROM workers WHERE {LAPSED}),"
    " EXISTS (SELECT 1 FROM tasks WHERE state = 1 AND due <= ?)"
    " OR EXISTS (SELECT 1 FROM queues WHERE held_until > 0 AND held_until <= ?),"
    " EXISTS (SELECT 1 FROM workers WHERE name = ?),"
    " EXISTS (SELECT 1 FROM tasks WHERE last_chance = 1),"
    " EXISTS (SELECT 1 FROM budgets WHERE spent),"
    " EXISTS (SELECT 1 FROM policy_followers),"
    f" {_counter('outbox')}, {_counter('outbox_bytes')}, {_counter('turn')}"
)


def circumstances(db: sqlite3.Connection, worker: Worker, now: float) -> Circumstances:
    """End expired leases, delays and cooldowns, and return the circumstances of a claim."""
    found = Circumstances.read(db, worker, now)
    if not (found.lapsed or found.due):
        return found
    end_lapsed_workers(db)
    wake_delayed(db, now)
    end_cooldowns(db, now)
    return Circumstances.read(db, worker, now)


def claim_tasks(
    db: sqlite3.Connection, request: ClaimRequest, lanes: Lanes, now: float
) -> list[Claim]:
    """Lease tasks to the worker; see ``Store.claim``."""
    worker, limit, held = request.worker, request.limit, request.held
    found = circumstances(db, worker, now)
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
    turns = Turns(db, worker, lanes, limit, last_chances=found.last_chances)
    ready = turns.queues
    if held is not None:
        limit = min(limit, _even_share(db, worker, len(ready)) - held)
        ready = ready[: max(0, limit)]
    limited = replace(request, limit=limit)
    return _claim_from(db, limited, turns, ready, found) if ready else []


def _claim_from(
    db: sqlite3.Connection,
    request: ClaimRequest,
    turns: Turns,
    ready: Sequence[Ready],
    found: Circumstances,
) -> list[Claim]:
    """Claim an equal share from each of these queues; leave the rest to a later claim."""
    worker, limit = request.worker, request.limit
    spent = spent_runs(db) if found.spent else frozenset[str]()
    gates = Gates(db) if found.policies else None
    is_plain = not (found.last_chances or spent or gates)
    firsts = _firsts(db, ready) if is_plain else {}
    turn, claims = found.turn or _last_turn(db), list[Claim]()
    chosen: dict[int, str] = {}
    claimed_from: list[tuple[int, int, int]] = []
    for left, queue in enumerate(ready):
        taken = len(claims) + len(chosen)
        share = max(1, (limit - taken) // (len(ready) - left))
        number = min(turns.room(queue), share)
        seqs = firsts.get(queue.qid, []) if number == 1 else []
        seqs = seqs or _claimable(db, (queue.qid, worker.name, number), spent, gates)
        turns.took(queue, len(seqs))
        chosen |= dict.fromkeys(seqs, queue.name)
        if seqs:  # An update that changes nothing would keep waking listeners.
            claimed_from.append((len(seqs), turn + left + 1, queue.qid))
        if found.last_chances:  # What the next queue can give depends on what is claimed here.
            claims += _claim(db, worker, chosen, found.now)
            chosen = {}
    claims += _claim(db, worker, chosen, found.now)
    if claims:
        execute_rows(db, _NOTE_CLAIMED, claimed_from)
        _keep_turn(db, turn + len(ready))
    return claims


# The next task of each queue, if no task is restricted to certain workers.
_SELECT_FIRSTS = (
    "SELECT json_group_array(json_array(value, (SELECT seq FROM tasks WHERE qid = value"
    " AND state = 0 ORDER BY priority, seq LIMIT 1))) FROM json_each(?)"
)


def _firsts(db: sqlite3.Connection, ready: Sequence[Ready]) -> dict[int, list[int]]:
    """Return the next task of each of these queues, with one query."""
    qids = orjson.dumps([queue.qid for queue in ready]).decode()
    (found,) = db.execute(_SELECT_FIRSTS, (qids,)).fetchone()
    return {qid: [seq] for qid, seq in orjson.loads(found) if seq is not None}


def _claim_suspect(
    db: sqlite3.Connection, worker: Worker, suspect: Suspect, now: float
) -> list[Claim]:
    if park(db, suspect.qid, [suspect.task_id], spent_runs(db)):
        return []
    turn = _last_turn(db) + 1
    execute_rows(db, _NOTE_CLAIMED, [(1, turn, suspect.qid)])
    _keep_turn(db, turn)
    return _claim(db, worker, {suspect.seq: suspect.queue}, now)


def _last_turn(db: sqlite3.Connection) -> int:
    """Return the highest turn given; initially, and in older files, searched in the queues."""
    turn = counter(db, "turn")
    if not turn:
        (turn,) = db.execute("SELECT coalesce(max(turn), 0) FROM queues").fetchone()
    return int(turn)


def _keep_turn(db: sqlite3.Connection, turn: int) -> None:
    db.execute(RAISE_COUNTER, ("turn", turn)).fetchall()


# Takes the number of claims, the turn, and the queue.
_NOTE_CLAIMED = (
    "UPDATE queues SET waiting = waiting - column1, running = running + column1, turn = column2"
    " FROM (VALUES {}) WHERE qid = column3"
)


def _even_share(db: sqlite3.Connection, worker: Worker, ready: int) -> int:
    """Return the even share of each worker with the same queues."""
    peers = "SELECT p.name FROM workers w JOIN workers p USING (serves) WHERE w.name = ?"
    (workers,) = db.execute(f"SELECT count(*) FROM ({peers})", (worker.name,)).fetchone()
    (running,) = db.execute(
        f"SELECT count(*) FROM tasks WHERE state = 2 AND worker IN ({peers})", (worker.name,)
    ).fetchone()
    return int(-(-(running + ready) // max(1, workers)))


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


def _claimable(
    db: sqlite3.Connection, choose: tuple[int, str, int], spent: frozenset[str], gates: Gates | None
) -> list[int]:
    """Return a queue's next tasks that their run's budget and their policy allow to start.

    Parks the others. At most one of the tasks is in its last chance.
    """
    qid, *_ = choose
    rows = db.execute(SELECT_CLAIMABLE, choose).fetchall()
    while spent and park(db, qid, [task_id for *_, task_id in rows], spent):
        rows = db.execute(SELECT_CLAIMABLE, choose).fetchall()
    while gates and gates.keep_back(qid, rows):
        rows = db.execute(SELECT_CLAIMABLE, choose).fetchall()
    alone = next((seq for seq, last_chance, _ in rows if last_chance), None)
    return [seq for seq, last_chance, _ in rows if not last_chance or seq == alone]
