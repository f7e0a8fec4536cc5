"""Trimming: removes records; their positions are never reused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agentpipe.core.portions import portions_of
from agentpipe.core.run_names import run_of
from agentpipe.sinks.base import ArchiveSize
from agentpipe.sinks.sqlite.facts import indexed_to
from agentpipe.sinks.sqlite.keeping import digest_if_removed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.connections.sqlite import Database
    from agentpipe.sinks.base import Query

# Records per transaction, which blocks writers.
STEP = 500
# How far back removed records are recognised if they are published again, in positions; as far as a
# group's new reader knows what others have read.
REMEMBERED = 20_000
_REMEMBER = (
    "INSERT OR IGNORE INTO trimmed"
    " SELECT position, task_id, digest_if_removed(CAST(body AS BLOB), digest)"
    " FROM records WHERE position = ?"
)
_FORGET = "DELETE FROM trimmed WHERE position <= (SELECT max(position) FROM trimmed) - ?"


def ends_without(db: sqlite3.Connection, found: Sequence[int], query: Query) -> list[int]:
    """The records of how groups of the query's run ended that no Result is left for but ``found``.

    Such a record has no time and no run of its own. A reader that met it alone would wait for the
    group's Results. Where none is there, they can be on their way: it counts by when it came.
    """
    rows = db.execute(
        "SELECT position, CAST(group_id AS TEXT), published_at < ?"
        " FROM facts JOIN records USING (position) WHERE outcome IS NULL AND group_id IS NOT NULL",
        (math.inf if query.finished_before is None else query.finished_before,),
    ).fetchall()
    gone = set(found)
    return [
        position
        for position, group, is_old in rows
        if (query.run is None or run_of(group) == query.run)
        and (gone.issuperset(results) if (results := _results_of(db, group)) else is_old)
    ]


def _results_of(db: sqlite3.Connection, group: str) -> list[int]:
    rows = db.execute(
        "SELECT position FROM facts WHERE group_id = ? AND outcome IS NOT NULL", (group,)
    )
    return [position for (position,) in rows]


def unread_of(db: sqlite3.Connection, positions: Sequence[int]) -> list[int]:
    """The positions that a group has not reached yet, or has lent."""
    (first,) = db.execute("SELECT min(CAST(next AS INTEGER)) FROM groups").fetchone()
    loans = db.execute("SELECT CAST(first AS INTEGER), CAST(last AS INTEGER) FROM loans").fetchall()
    return [
        each
        for each in positions
        if (first is not None and each >= first) or any(low <= each <= high for low, high in loans)
    ]


def remove(database: Database, positions: Sequence[int], *, unread: bool) -> tuple[int, int]:
    """Remove records and their facts; see ``Trimmable``."""
    removed = kept = 0
    for step in portions_of(positions, STEP):
        with database.write(durable=False) as db:
            # A group can have come since the caller looked.
            stays = set() if unread else set(unread_of(db, step))
            rows = [(each,) for each in step if each not in stays]
            db.create_function("digest_if_removed", 2, digest_if_removed, deterministic=True)
            db.executemany(_REMEMBER, rows)
            db.execute(_FORGET, (REMEMBERED,))
            db.executemany("DELETE FROM facts WHERE position = ?", rows)
            removed += db.executemany("DELETE FROM records WHERE position = ?", rows).rowcount
        kept += len(stays)
    database.sync()
    return removed, kept


def size(db: sqlite3.Connection) -> ArchiveSize:
    """Measure a file's contents."""
    mark = indexed_to(db)
    groups = db.execute("SELECT CAST(name AS TEXT), CAST(next AS INTEGER) FROM groups").fetchall()
    page_bytes = _number(db, "PRAGMA page_size")
    return ArchiveSize(
        results=_number(db, "SELECT count(*) FROM records"),
        size_bytes=_number(db, "PRAGMA page_count") * page_bytes,
        free_bytes=_number(db, "PRAGMA freelist_count") * page_bytes,
        unindexed=_number(db, "SELECT count(*) FROM records WHERE position > ?", mark),
        unread={name: _left_of(db, name, after) for name, after in groups},
    )


def _left_of(db: sqlite3.Connection, group: str, after: int) -> int:
    waiting = _number(db, "SELECT count(*) FROM records WHERE position >= ?", after)
    lent = db.execute(
        "SELECT sum(last - first + 1) FROM loans WHERE owner = ?", (group,)
    ).fetchone()
    return waiting + int(lent[0] or 0)


def _number(db: sqlite3.Connection, query: str, *values: int) -> int:
    return int(db.execute(query, values).fetchone()[0])
