"""Settling: ends or requeues tasks, and puts Results into the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from agentpipe.brokers.sqlite.dead_letters import bury
from agentpipe.brokers.sqlite.groups import HAS_MEMBERS, EndedTask, end_member
from agentpipe.brokers.sqlite.queries import COUNT_CRASH, RUNNING, SETTLED, WAITING
from agentpipe.brokers.statistics import OUTCOME, RUNS_IN_MEAN
from agentpipe.connections.sqlite_rows import execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections import Counter
    from collections.abc import Sequence

    from agentpipe.brokers.capabilities import Answer, Fate
    from agentpipe.brokers.records import MemberEnd, Settlement

# The highest number ever given in the outbox; NULL before the first.
_LAST_NUMBER = "(SELECT seq FROM sqlite_sequence WHERE name = 'outbox')"
# Returns the claims as one JSON value, because fetching each row separately is slower.
_SELECT_CLAIMED = (
    "SELECT json_group_array(json_array(c.key, seq, qid, claimed_at, cancelled,"
    " (SELECT coalesce(collection, name) FROM queues q WHERE q.qid = t.qid))),"
    f" {_LAST_NUMBER}, {HAS_MEMBERS}, EXISTS (SELECT 1 FROM streaks)"
    " FROM json_each(?) c CROSS JOIN tasks t ON t.id = json_extract(c.value, '$[0]')"
    " WHERE state = 2 AND worker = json_extract(c.value, '$[1]')"
    " AND number = json_extract(c.value, '$[2]')"
)
_END_RUNS = (
    "UPDATE queues SET running = running - column1, run_s = coalesce(run_s * column2 + column3,"
    " column4) FROM (VALUES {}) WHERE qid = column5"
)
_END_TASKS = (
    "UPDATE tasks SET state = 3, worker = NULL, due = NULL, settled_at = column1, error = NULL"
    " FROM (VALUES {}) WHERE seq = column2"
)


class Claimed(NamedTuple):
    """A running task.

    Attributes:
        at: When it was claimed.
        owner: Its collection, or its queue if it is in none.
    """

    seq: int
    qid: int
    at: float
    cancelled: int
    owner: str


class Settled(NamedTuple):
    """What was settled.

    Attributes:
        claims: By settlement; None where the claim was lost.
        has_streaks: Whether any collection has failed runs in a row.
    """

    claims: list[Claimed | None]
    has_streaks: bool


def settle_all(
    db: sqlite3.Connection, settlements: Sequence[Settlement], changes: Counter[str], now: float
) -> Settled:
    """Apply settlements.

    Args:
        db: The connection, in a transaction.
        settlements: The settlements.
        changes: Collects counter changes.
        now: The store's time.
    """
    keys = [(it.claim.task_id, it.claim.worker, it.claim.number) for it in settlements]
    row = db.execute(_SELECT_CLAIMED, (orjson.dumps(keys).decode(),)).fetchone()
    found, last_number, has_members, has_streaks = row
    held = {at: Claimed(*task) for at, *task in orjson.loads(found)}
    ends, claims, settled = _Ends(db, now, last_number or 0), list[Claimed | None](), set[int]()
    for at, settlement in enumerate(settlements):
        claimed = held.get(at)
        if claimed is None or claimed.seq in settled:
            claims.append(None)
            continue
        settled.add(claimed.seq)
        claims.append(claimed)
        _settle(db, settlement, claimed, ends, now)
    ends.write(changes, has_members=bool(has_members))
    return Settled(claims, bool(has_streaks))


def _settle(
    db: sqlite3.Connection, settlement: Settlement, claimed: Claimed, ends: _Ends, now: float
) -> None:
    if settlement.payload:
        values = (settlement.payload, claimed.seq)
        db.execute("UPDATE payloads SET body = ? WHERE seq = ?", values)
    if settlement.action not in ("complete", "bury"):
        _return(db, settlement, claimed, now)
        return
    if settlement.action == "bury":
        bury(db, claimed.seq, claimed.qid, settlement)
    ends.add(settlement, claimed)


def _return(db: sqlite3.Connection, settlement: Settlement, claimed: Claimed, now: float) -> None:
    """Requeue the task."""
    seq, qid = claimed.seq, claimed.qid
    db.execute("UPDATE queues SET running = running - 1 WHERE qid = ?", (qid,))
    if settlement.reason:
        db.execute("UPDATE tasks SET error = ? WHERE seq = ?", (settlement.reason, seq))
    if settlement.action == "retry" or _is_postponed(settlement):
        failures, due = settlement.action == "retry", now + settlement.delay_s
        db.execute(
            "UPDATE tasks SET state = 1, worker = NULL, failures = failures + ?, due = ?"
            " WHERE seq = ?",
            (failures, 0.0 if claimed.cancelled else due, seq),
        )
        db.execute("UPDATE queues SET delayed = delayed + 1 WHERE qid = ?", (qid,))
        return
    db.execute("UPDATE tasks SET state = 0, worker = NULL WHERE seq = ?", (seq,))
    db.execute("UPDATE queues SET waiting = waiting + 1 WHERE qid = ?", (qid,))
    if settlement.action == "crash":
        db.execute(f"UPDATE tasks {COUNT_CRASH} WHERE seq = ?", (seq,))
    elif settlement.action == "cooldown" and settlement.delay_s > 0:
        _cool_down(db, seq, qid, settlement, now)


class _Ends:
    """Tasks that end in one transaction; each table is written once for all of them."""

    def __init__(self, db: sqlite3.Connection, now: float, last_number: int) -> None:
        self._db, self._now, self._last_number = db, now, last_number
        self._tasks: list[tuple[int, str, bytes]] = []
        self._members: list[tuple[EndedTask, MemberEnd | None]] = []
        # By queue; None for a task that did not run.
        self._runs_s: dict[int, list[float | None]] = {}

    def add(self, settlement: Settlement, claimed: Claimed) -> None:
        """Add a task that ends with its Result."""
        task_id = settlement.claim.task_id
        self._tasks.append((claimed.seq, task_id, settlement.result))
        ended = EndedTask(task_id, claimed.qid, settlement.outcome)
        self._members.append((ended, settlement.member))
        run_s = max(0.0, self._now - claimed.at) if settlement.ran else None
        self._runs_s.setdefault(claimed.qid, []).append(run_s)

    def write(self, changes: Counter[str], *, has_members: bool) -> None:
        """Write all of them; ``has_members``: any can be a group's, or a policy's running unit."""
        if not self._tasks:
            return
        execute_rows(self._db, _END_RUNS, [_ended(*runs) for runs in self._runs_s.items()])
        _put_in_outbox(self._db, self._tasks, self._now, self._last_number)
        for (*_, result), (ended, _) in zip(self._tasks, self._members, strict=True):
            changes.update(_gains(result, ended.outcome))
        for ended, member in self._members if has_members else ():
            end_member(self._db, ended, member, changes, self._now)


def _ended(qid: int, ends_s: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return values for ``_END_RUNS``, which updates the moving average of the run duration."""
    runs_s = [each for each in ends_s if each is not None]
    if not runs_s:
        return len(ends_s), 1.0, 0.0, None, qid
    first, added = runs_s[0], 0.0
    for run_s in runs_s:
        added += (run_s - added) / RUNS_IN_MEAN
    for run_s in runs_s[1:]:
        first += (run_s - first) / RUNS_IN_MEAN
    kept = (1 - 1 / RUNS_IN_MEAN) ** len(runs_s)
    return len(ends_s), kept, added, first, qid


def _is_postponed(settlement: Settlement) -> bool:
    return settlement.action == "release" and settlement.delay_s > 0


def _cool_down(
    db: sqlite3.Connection, seq: int, qid: int, settlement: Settlement, now: float
) -> None:
    delay_s = settlement.delay_s
    db.execute("UPDATE tasks SET cooled_s = cooled_s + ? WHERE seq = ?", (delay_s, seq))
    until, covered = now + delay_s, orjson.dumps(settlement.cooldown_queues).decode()
    db.execute(
        "UPDATE queues SET held_until = ?1 WHERE held_until < ?1"
        " AND (qid = ?2 OR name IN (SELECT value FROM json_each(?3)))",
        (until, qid, covered),
    )


def cancel_task(db: sqlite3.Connection, task_id: str) -> Fate:
    """Mark a running task as cancelled; returns what it found."""
    row = db.execute("SELECT seq, state FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        return "unknown"
    seq, state = row
    if state == RUNNING:
        db.execute("UPDATE tasks SET cancelled = 1 WHERE seq = ?", (seq,))
        return "signalled"
    return "settled" if state == SETTLED else "waiting"


def _put_in_outbox(
    db: sqlite3.Connection, tasks: Sequence[tuple[int, str, bytes]], now: float, last_number: int
) -> None:
    """End these tasks: delete their payloads, keep their ids for the retention time."""
    execute_rows(db, _END_TASKS, [(now, seq) for seq, *_ in tasks])
    seqs = orjson.dumps([seq for seq, *_ in tasks]).decode()
    db.execute("DELETE FROM payloads WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
    numbered = list(enumerate(tasks, last_number + 1))
    execute_rows(
        db,
        "INSERT INTO outbox (seq, task_id, bytes) VALUES {}",
        [(number, task_id, len(result)) for number, (_, task_id, result) in numbered],
    )
    execute_rows(
        db,
        "INSERT INTO outbox_bodies VALUES {}",
        [(number, result) for number, (*_, result) in numbered],
    )


def _gains(result: bytes, outcome: str) -> dict[str, int]:
    return {"outbox": 1, "outbox_bytes": len(result), OUTCOME + outcome: 1}


def answer_unclaimed(
    db: sqlite3.Connection, answer: Answer, changes: Counter[str], now: float
) -> bool:
    """Settle an unclaimed task; False if it is no longer unclaimed."""
    row = db.execute(
        f"SELECT seq, qid, state, {_LAST_NUMBER} FROM tasks WHERE id = ? AND state IN (0, 1)",
        (answer.task_id,),
    ).fetchone()
    if row is None:
        return False
    seq, qid, state, last_number = row
    column = "waiting" if state == WAITING else "delayed"
    db.execute(f"UPDATE queues SET {column} = {column} - 1 WHERE qid = ?", (qid,))
    _put_in_outbox(db, [(seq, answer.task_id, answer.result)], now, last_number or 0)
    changes.update(_gains(answer.result, answer.outcome))
    end_member(db, EndedTask(answer.task_id, qid, answer.outcome), None, changes, now)
    return True
