"""Budgets of collections and runs, charged in the transaction that settles.

The queues of a collection that has spent its budget are not ready, like paused ones. Tasks of a run
that has spent its budget are parked when they are about to be claimed: delayed forever, so that no
later claim has to skip them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.readable_rows import number_in, readable, text_in
from agentpipe.brokers.sqlite.queries import (
    DELAYED,
    PARKED_BY_BUDGET,
    PARKED_BY_POLICY,
    SET_PAUSES,
    WAITING,
)
from agentpipe.brokers.statistics import with_spent
from agentpipe.core.budgets import HOLDERS, Budget, Spending
from agentpipe.core.run_names import bounds_of, run_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue, Settlement
    from agentpipe.brokers.statistics import QueueDepth
    from agentpipe.core.budgets import Holder

_SELECT = "SELECT kind, name, cap_usd, cap_tokens, usd, tokens FROM budgets"
_SPENT = "SELECT kind, name FROM budgets WHERE spent"
_ADD = "UPDATE budgets SET usd = usd + ?, tokens = tokens + ? WHERE kind = ? AND name = ?"
_UPSERT = (
    "INSERT INTO budgets (kind, name, cap_usd, cap_tokens) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (kind, name) DO UPDATE SET"
    " cap_usd = excluded.cap_usd, cap_tokens = excluded.cap_tokens"
)
# Tasks of a run; takes the values of ``bounds_of``.
_OF_RUN = "id >= ? AND id < ?"


def read_spendings(db: sqlite3.Connection) -> tuple[Spending, ...]:
    """Return all budgets."""
    rows = db.execute(f"{_SELECT} ORDER BY kind, name").fetchall()
    return tuple(readable("budgets", rows, _spending))


def spending_of(db: sqlite3.Connection, kind: Holder, name: str) -> Spending | None:
    """Return one budget; None if there is none."""
    rows = db.execute(f"{_SELECT} WHERE kind = ? AND name = ?", (kind, name)).fetchall()
    return next(readable("budgets", rows, _spending), None)


def _spending(row: Sequence[Any]) -> Spending:
    kind, name, cap_usd, cap_tokens, usd, tokens = row
    if kind not in HOLDERS:
        raise ValueError("neither a collection nor a run")
    cap = Budget(
        None if cap_usd is None else number_in(cap_usd),
        None if cap_tokens is None else int(number_in(cap_tokens)),
    )
    return Spending(kind, text_in(name), cap, number_in(usd), int(number_in(tokens)))


def set_budget(db: sqlite3.Connection, kind: Holder, name: str, budget: Budget) -> None:
    """Set the caps, and resume or unpark what they allow."""
    db.execute(_UPSERT, (kind, name, budget.usd, budget.tokens))
    if kind == "collection":
        db.execute(SET_PAUSES)
    elif (kind, name) not in _spent(db):
        db.execute(
            f"UPDATE tasks SET due = 0 WHERE state = {DELAYED} AND due >= ? AND {_OF_RUN}",
            (PARKED_BY_BUDGET, *bounds_of(name)),
        )


def changed_budgets(db: sqlite3.Connection, queues: Iterable[Queue]) -> dict[str, Budget]:
    """Return the collections' budgets that differ from the ones declared last."""
    given = {it.collection: it.budget for it in queues if it.collection}
    known = dict(db.execute("SELECT name, declared FROM budgets WHERE kind = 'collection'"))
    return {name: it for name, it in given.items() if _written(it) != known.get(name, "")}


def declare_budgets(db: sqlite3.Connection, budgets: Mapping[str, Budget]) -> None:
    """Store declared budgets."""
    for name, budget in budgets.items():
        set_budget(db, "collection", name, budget)
        db.execute(
            "UPDATE budgets SET declared = ? WHERE kind = 'collection' AND name = ?",
            (_written(budget), name),
        )


def _written(budget: Budget) -> str:
    return f"{budget.usd} {budget.tokens}" if budget else ""


def charge(db: sqlite3.Connection, settlements: Iterable[Settlement]) -> None:
    """Add the runs' costs; stop claims from collections that have now spent their budget."""
    costly = [each for each in settlements if each.usd or each.tokens]
    if not costly or not db.execute("SELECT EXISTS (SELECT 1 FROM budgets)").fetchone()[0]:
        return
    before = _spent(db)
    db.executemany(_ADD, [(*cost, *holder) for holder, cost in _costs(db, costly).items()])
    if any(kind == "collection" for kind, _ in _spent(db) - before):
        db.execute(SET_PAUSES)


def _spent(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute(_SPENT).fetchall())


def _costs(
    db: sqlite3.Connection, settlements: Sequence[Settlement]
) -> dict[tuple[str, str], list[float]]:
    """Sum the costs by collection and by run."""
    collections: dict[str, str | None] = {}
    costs: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for each in settlements:
        queue, run = each.claim.queue, run_of(each.claim.task_id)
        if queue not in collections:
            collections[queue] = _collection_of(db, queue)
        for kind, name in (("collection", collections[queue]), ("run", run)):
            if name is not None:
                cost = costs[kind, name]
                cost[0], cost[1] = cost[0] + each.usd, cost[1] + each.tokens
    return costs


def _collection_of(db: sqlite3.Connection, queue: str) -> str | None:
    row = db.execute("SELECT collection FROM queues WHERE name = ?", (queue,)).fetchone()
    return None if row is None else row[0]


def spent_runs(db: sqlite3.Connection) -> frozenset[str]:
    """Return the runs that have spent their budget."""
    return frozenset(name for kind, name in _spent(db) if kind == "run")


def park(db: sqlite3.Connection, qid: int, task_ids: Iterable[str], spent: frozenset[str]) -> bool:
    """Park the queue's tasks of every spent run that ``task_ids`` name; False if there is none."""
    runs = spent.intersection(map(run_of, task_ids))
    for run in runs:
        parked = db.execute(
            f"UPDATE tasks SET state = {DELAYED}, due = ?"
            f" WHERE qid = ? AND state = {WAITING} AND {_OF_RUN}",
            (PARKED_BY_BUDGET, qid, *bounds_of(run)),
        ).rowcount
        db.execute(
            "UPDATE queues SET waiting = waiting - ?1, delayed = delayed + ?1 WHERE qid = ?2",
            (parked, qid),
        )
    return bool(runs)


def with_budgets(
    db: sqlite3.Connection, depths: Iterable[QueueDepth], spendings: Sequence[Spending]
) -> tuple[QueueDepth, ...]:
    """Return the depths, with parked tasks and spent budgets filled in."""
    parked = _parked(db)
    if not (spendings or parked):
        return tuple(depths)
    noted = (replace(depth, parked=parked.get(depth.queue, 0)) for depth in depths)
    return with_spent(noted, spendings)


def _parked(db: sqlite3.Connection) -> dict[str, int]:
    """Count the parked tasks of each queue, whatever parked them."""
    rows = db.execute(
        "SELECT name, number FROM queues JOIN (SELECT qid, count(*) AS number FROM tasks"
        f" WHERE state = {DELAYED} AND due >= ? GROUP BY qid) USING (qid)",
        (PARKED_BY_POLICY,),
    )
    return dict(rows.fetchall())
