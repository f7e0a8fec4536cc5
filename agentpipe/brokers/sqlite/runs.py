"""Runs of the embedded store: records, and counts updated in the transactions of their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.readable_rows import bytes_in, number_in, readable, text_in
from agentpipe.brokers.runs import KeptRun, RunCount, run_counts_of, tasks_by_run

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.capabilities import Answer
    from agentpipe.brokers.records import Settlement

_UPSERT = (
    "INSERT INTO run_results SELECT name, ?, ?, ?, ?, ?, ? FROM runs WHERE name = ?"
    " ON CONFLICT (run, config_hash, outcome) DO UPDATE SET done = done + excluded.done,"
    " rewarded = rewarded + excluded.rewarded, rewards = rewards + excluded.rewards,"
    " usd = usd + excluded.usd"
)


def begin(db: sqlite3.Connection, name: str, record: bytes) -> bytes:
    """Store the record unless the run has one; returns the stored one."""
    db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, 0)", (name, record))
    (kept,) = db.execute("SELECT record FROM runs WHERE name = ?", (name,)).fetchone()
    return bytes_in(kept)


def drop(db: sqlite3.Connection, name: str) -> bool:
    """Delete the record and the counts; False if there was no record."""
    db.execute("DELETE FROM run_results WHERE run = ?", (name,))
    return db.execute("DELETE FROM runs WHERE name = ?", (name,)).rowcount == 1


def count_accepted(db: sqlite3.Connection, task_ids: Iterable[str]) -> None:
    """Count accepted tasks of runs that have a record."""
    counts = tasks_by_run(task_ids)
    rows = [(number, run) for run, number in counts.items()]
    db.executemany("UPDATE runs SET tasks = tasks + ? WHERE name = ?", rows)


def count_settled(db: sqlite3.Connection, settlements: Iterable[Settlement]) -> None:
    """Count settlements of runs that have a record."""
    if counts := run_counts_of(settlements):
        _add(db, counts)


def count_answered(db: sqlite3.Connection, answers: Iterable[Answer]) -> None:
    """Count tasks that never ran."""
    for answer in answers:
        for run in tasks_by_run([answer.task_id]):
            _add(db, {(run, "", answer.outcome): RunCount(done=1)})


def _add(db: sqlite3.Connection, counts: Mapping[tuple[str, str, str], RunCount]) -> None:
    rows = [
        (config, outcome, it.done, it.rewarded, it.rewards, it.usd, run)
        for (run, config, outcome), it in counts.items()
    ]
    db.executemany(_UPSERT, rows)


def read(db: sqlite3.Connection) -> list[KeptRun]:
    """Return all runs, in the order in which they began."""
    rows = db.execute("SELECT name, record, tasks FROM runs ORDER BY rowid").fetchall()
    return list(readable("runs", rows, lambda row: _kept(db, *row)))


def _kept(db: sqlite3.Connection, name: Any, record: Any, tasks: Any) -> KeptRun:
    rows = db.execute(
        "SELECT config_hash, outcome, done, rewarded, rewards, usd FROM run_results WHERE run = ?",
        (name,),
    ).fetchall()
    outcomes: dict[str, int] = {}
    configs: dict[str, int] = {}
    total = RunCount()
    for config, outcome, count in readable("counts of runs", rows, _count):
        total += count
        if count.done:
            outcomes[outcome] = outcomes.get(outcome, 0) + count.done
            configs[config] = configs.get(config, 0) + count.done
    return KeptRun(
        text_in(name),
        bytes_in(record),
        int(number_in(tasks)),
        outcomes=outcomes,
        configs=configs,
        rewarded=total.rewarded,
        rewards=total.rewards,
        usd=total.usd,
    )


def _count(row: Sequence[Any]) -> tuple[str, str, RunCount]:
    config, outcome, done, rewarded, rewards, usd = row
    counts = int(number_in(done)), int(number_in(rewarded)), number_in(rewards), number_in(usd)
    return text_in(config), text_in(outcome), RunCount(*counts)
