"""Measures of the embedded store: one row per collection, or per queue outside any collection."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.measures import (
    Measures,
    added,
    count_settlement,
    increments_of_answer,
    pack,
    unpack,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.capabilities import Answer
    from agentpipe.brokers.records import Settlement
    from agentpipe.brokers.sqlite.clock import StoreClock
    from agentpipe.brokers.sqlite.settling import Claimed

_OWNERS = (
    "SELECT json_group_object(id, coalesce(collection, name)) FROM tasks JOIN queues USING (qid)"
    " WHERE id IN (SELECT value FROM json_each(?))"
)


def count_settled(
    db: sqlite3.Connection,
    settlements: Sequence[Settlement],
    claims: Sequence[Claimed | None],
    clock: StoreClock,
) -> None:
    """Count settlements; ``claims`` has None where the claim was lost."""
    now = clock.now()
    ahead_s = now - clock.as_wall(now)
    counts: dict[str, dict[int, float]] = defaultdict(dict)
    for each, claimed in zip(settlements, claims, strict=True):
        if claimed is not None:
            waited_s = claimed.at - ahead_s - each.claim.submitted_at
            count_settlement(counts[claimed.owner], each, now - claimed.at, waited_s)
    _add(db, counts)


def count_answered(db: sqlite3.Connection, answers: Iterable[Answer]) -> None:
    """Count tasks that never ran."""
    outcomes = {each.task_id: each.outcome for each in answers}
    (found,) = db.execute(_OWNERS, (orjson.dumps(list(outcomes)).decode(),)).fetchone()
    for task_id, owner in orjson.loads(found).items():
        _add(db, {owner: increments_of_answer(outcomes[task_id])})


def _add(db: sqlite3.Connection, counts: Mapping[str, Mapping[int, float]]) -> None:
    for name, more in counts.items():
        row = db.execute("SELECT numbers FROM measures WHERE name = ?", (name,)).fetchone()
        packed = pack(added(unpack(row[0] if row else b""), more))
        db.execute("INSERT OR REPLACE INTO measures VALUES (?, ?)", (name, packed))


def read(db: sqlite3.Connection) -> dict[str, Measures]:
    """Return all measures by collection or queue."""
    rows = db.execute("SELECT name, numbers FROM measures ORDER BY name").fetchall()
    return {name: Measures.of(unpack(numbers)) for name, numbers in rows}
