"""Settling: ends tasks or returns them to their queues; puts Results into the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.sqlite.dead_letters import bury
from agentpipe.brokers.sqlite.groups import EndedTask, end_member
from agentpipe.brokers.sqlite.tables import COUNT_CRASH, RUNNING, SETTLED, WAITING
from agentpipe.brokers.statistics import OUTCOME, RUNS_IN_MEAN

if TYPE_CHECKING:
    import sqlite3
    from collections import Counter

    from agentpipe.brokers.capabilities import Answer, Fate
    from agentpipe.brokers.records import Settlement


def settle_task(
    db: sqlite3.Connection, settlement: Settlement, changes: Counter[str], now: float
) -> float | None:
    """Carry out one settlement; returns when its claim was made, None if that was lost.

    Args:
        db: In a transaction.
        settlement: What ends the claim.
        changes: Collects counters.
        now: By the store's clock.
    """
    claim = settlement.claim
    row = db.execute(
        "SELECT seq, qid, claimed_at, cancelled FROM tasks"
        " WHERE id = ? AND state = 2 AND worker = ? AND number = ?",
        (claim.task_id, claim.worker, claim.number),
    ).fetchone()
    if row is None:
        return None
    seq, qid, claimed_at, cancelled = row
    if settlement.payload:
        db.execute("UPDATE payloads SET body = ? WHERE seq = ?", (settlement.payload, seq))
    db.execute("UPDATE queues SET running = running - 1 WHERE qid = ?", (qid,))
    if settlement.reason and settlement.action not in ("complete", "bury"):
        db.execute("UPDATE tasks SET error = ? WHERE seq = ?", (settlement.reason, seq))
    if settlement.action == "retry" or _is_postponed(settlement):
        failures, due = settlement.action == "retry", now + settlement.delay_s
        db.execute(
            "UPDATE tasks SET state = 1, worker = NULL, failures = failures + ?, due = ?"
            " WHERE seq = ?",
            (failures, 0.0 if cancelled else due, seq),
        )
        db.execute("UPDATE queues SET delayed = delayed + 1 WHERE qid = ?", (qid,))
    elif settlement.action in ("release", "crash", "cooldown"):
        db.execute("UPDATE tasks SET state = 0, worker = NULL WHERE seq = ?", (seq,))
        db.execute("UPDATE queues SET waiting = waiting + 1 WHERE qid = ?", (qid,))
        if settlement.action == "crash":
            db.execute(f"UPDATE tasks {COUNT_CRASH} WHERE seq = ?", (seq,))
        elif settlement.action == "cooldown" and settlement.delay_s > 0:
            _cool_down(db, seq, qid, settlement, now)
    else:
        _note_run_s(db, qid, now - claimed_at)
        if settlement.action == "bury":
            bury(db, seq, qid, settlement)
        _put_in_outbox(db, seq, claim.task_id, settlement.result, now)
        changes.update(_gains(settlement.result, settlement.outcome))
        ended = EndedTask(claim.task_id, qid, settlement.outcome)
        end_member(db, ended, settlement.member, changes, now)
    return float(claimed_at)


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


def _note_run_s(db: sqlite3.Connection, qid: int, run_s: float) -> None:
    """Update the mean duration, in which the latest runs weigh most."""
    db.execute(
        "UPDATE queues SET run_s = coalesce(run_s + (?1 - run_s) / ?2, ?1) WHERE qid = ?3",
        (max(0.0, run_s), RUNS_IN_MEAN, qid),
    )


def cancel_task(db: sqlite3.Connection, task_id: str) -> Fate:
    """Mark a running task; returns its state otherwise."""
    row = db.execute("SELECT seq, state FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        return "unknown"
    seq, state = row
    if state == RUNNING:
        db.execute("UPDATE tasks SET cancelled = 1 WHERE seq = ?", (seq,))
        return "signalled"
    return "settled" if state == SETTLED else "waiting"


def _put_in_outbox(
    db: sqlite3.Connection, seq: int, task_id: str, result: bytes, now: float
) -> None:
    """End the task: its payload is deleted, its id stays for the retention time."""
    db.execute(
        "UPDATE tasks SET state = 3, worker = NULL, due = NULL, settled_at = ?, error = NULL"
        " WHERE seq = ?",
        (now, seq),
    )
    db.execute("DELETE FROM payloads WHERE seq = ?", (seq,))
    number = db.execute(
        "INSERT INTO outbox (task_id, bytes) VALUES (?, ?)", (task_id, len(result))
    ).lastrowid
    db.execute("INSERT INTO outbox_bodies VALUES (?, ?)", (number, result))


def _gains(result: bytes, outcome: str) -> dict[str, int]:
    return {"outbox": 1, "outbox_bytes": len(result), OUTCOME + outcome: 1}


def answer_unclaimed(
    db: sqlite3.Connection, answer: Answer, changes: Counter[str], now: float
) -> bool:
    """Settle an unclaimed task; False if it is not unclaimed."""
    row = db.execute(
        "SELECT seq, qid, state FROM tasks WHERE id = ? AND state IN (0, 1)", (answer.task_id,)
    ).fetchone()
    if row is None:
        return False
    seq, qid, state = row
    column = "waiting" if state == WAITING else "delayed"
    db.execute(f"UPDATE queues SET {column} = {column} - 1 WHERE qid = ?", (qid,))
    _put_in_outbox(db, seq, answer.task_id, answer.result, now)
    changes.update(_gains(answer.result, answer.outcome))
    end_member(db, EndedTask(answer.task_id, qid, answer.outcome), None, changes, now)
    return True
