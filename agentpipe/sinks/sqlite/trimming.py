"""Trimming: removes records; their positions are never reused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.sinks.base import ArchiveSize
from agentpipe.sinks.sqlite.facts import indexed_to

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.connections.sqlite import Database

# Records per transaction, which blocks writers.
STEP = 500


def unread(db: sqlite3.Connection, positions: Sequence[int]) -> list[int]:
    """The positions that a group has not reached yet, or has lent."""
    (first,) = db.execute("SELECT min(CAST(next AS INTEGER)) FROM groups").fetchone()
    loans = db.execute("SELECT CAST(first AS INTEGER), CAST(last AS INTEGER) FROM loans").fetchall()
    return [
        each
        for each in positions
        if (first is not None and each >= first) or any(low <= each <= high for low, high in loans)
    ]


def remove(database: Database, positions: Sequence[int]) -> int:
    """Remove records and their facts; returns how many were removed."""
    removed = 0
    for start in range(0, len(positions), STEP):
        step = [(each,) for each in positions[start : start + STEP]]
        with database.write(durable=False) as db:
            db.executemany("DELETE FROM facts WHERE position = ?", step)
            removed += db.executemany("DELETE FROM records WHERE position = ?", step).rowcount
    database.sync()
    return removed


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
        unread={name: _unread_of(db, name, after) for name, after in groups},
    )


def _unread_of(db: sqlite3.Connection, group: str, after: int) -> int:
    waiting = _number(db, "SELECT count(*) FROM records WHERE position >= ?", after)
    lent = db.execute(
        "SELECT sum(last - first + 1) FROM loans WHERE owner = ?", (group,)
    ).fetchone()
    return waiting + int(lent[0] or 0)


def _number(db: sqlite3.Connection, query: str, *values: int) -> int:
    return int(db.execute(query, values).fetchone()[0])
