"""Measures of the embedded store: one row per collection, or per queue outside any collection."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.measures import (
    Measures,
    added,
    count_settlement,
    counts_of_answer,
    pack,
    unpack,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.capabilities import Answer
    from agentpipe.brokers.records import Settlement
    from agentpipe.brokers.sqlite.clock import StoreClock

_OWNERS = (
    "SELECT json_group_object(name, coalesce(collection, name)) FROM queues"
    " WHERE name IN (SELECT value FROM json_each(?))"
)
_OWNERS_OF_TASKS = (
    "SELECT json_group_object(id, coalesce(collection, name)) FROM tasks JOIN queues USING (qid)"
    " WHERE id IN (SELECT value FROM json_each(?))"
)


def count_settled(
    db: sqlite3.Connection,
    settlements: Sequence[Settlement],
    since: Sequence[float | None],
    clock: StoreClock,
) -> None:
    """Count settlements; ``since`` has when each was claimed, or None if its claim was lost."""
    now = clock.now()
    ahead_s = now - clock.as_wall(now)
    counts: dict[str, dict[int, float]] = defaultdict(dict)
    owners = _owners(db, _OWNERS, {each.claim.queue for each in settlements})
    for each, moment in zip(settlements, since, strict=True):
        owner = owners.get(each.claim.queue)
        if moment is not None and owner is not None:
            waited_s = moment - ahead_s - each.claim.submitted_at
            count_settlement(counts[owner], each, now - moment, waited_s)
    _add(db, counts)


def count_answered(db: sqlite3.Connection, answers: Iterable[Answer]) -> None:
    """Count tasks that never ran."""
    outcomes = {each.task_id: each.outcome for each in answers}
    for task_id, owner in _owners(db, _OWNERS_OF_TASKS, outcomes).items():
        _add(db, {owner: counts_of_answer(outcomes[task_id])})


def _owners(db: sqlite3.Connection, query: str, names: Iterable[str]) -> dict[str, str]:
    (found,) = db.execute(query, (orjson.dumps(list(names)).decode(),)).fetchone()
    owners: dict[str, str] = orjson.loads(found)
    return owners


def _add(db: sqlite3.Connection, counts: Mapping[str, Mapping[int, float]]) -> None:
    for name, more in counts.items():
        row = db.execute("SELECT numbers FROM measures WHERE name = ?", (name,)).fetchone()
        packed = pack(added(unpack(row[0] if row else b""), more))
        db.execute("INSERT OR REPLACE INTO measures VALUES (?, ?)", (name, packed))


def read(db: sqlite3.Connection) -> dict[str, Measures]:
    """Return all measures by collection or queue."""
    rows = db.execute("SELECT name, numbers FROM measures ORDER BY name").fetchall()
    return {name: Measures.of(unpack(numbers)) for name, numbers in rows}
