"""The tables of the embedded sink's file, and how its rows become records."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from agentpipe.connections.sqlite_layout import Layout
from agentpipe.core import caps
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

# What a search finds records by, see ``facts``. Its indices lie apart from the records, so that an
# upgrade copies none, and are filled a thousand at a time: in each publish they would cost more.
_FACTS = """
CREATE TABLE facts (
    position INTEGER PRIMARY KEY, run TEXT, group_id TEXT, collection TEXT, agent TEXT,
    outcome TEXT, finished_at REAL);
CREATE INDEX facts_by_run ON facts (run) WHERE run IS NOT NULL;
CREATE INDEX facts_by_group ON facts (group_id) WHERE group_id IS NOT NULL;
CREATE INDEX facts_by_outcome ON facts (outcome);
CREATE INDEX facts_by_time ON facts (finished_at);
CREATE TABLE marks (name TEXT PRIMARY KEY, position INTEGER NOT NULL)
"""
_SCHEMA = f"""
CREATE TABLE records (
    position INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, digest BLOB NOT NULL,
    body BLOB NOT NULL, published_at REAL NOT NULL, UNIQUE (task_id, digest));
CREATE INDEX records_by_time ON records (published_at);
CREATE TABLE groups (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE loans (
    owner TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reader TEXT NOT NULL);
CREATE INDEX loans_by_owner ON loans (owner);
{_FACTS.strip()}
"""
# Records in memory at a time; a search may stop anywhere.
PAGE_BYTES = 16 * caps.MIB
LAYOUT = Layout(3, "records", _SCHEMA, {2: _FACTS})
# Others may write here, too: SQLite keeps values of any type, and a text that is not UTF-8.
TASK_ID = "CAST(task_id AS BLOB)"
# Of one that is too large, which is none of ours, an empty one.
BODY = f"CASE WHEN length(body) <= {caps.MAX_RECORD_BYTES} THEN CAST(body AS BLOB) ELSE x'' END"


def records_of(rows: Iterable[tuple[bytes, bytes, int]]) -> Iterator[Record]:
    """The records of rows of ``TASK_ID``, ``BODY`` and their position."""
    return (Record(text_of(task_id), body, position) for task_id, body, position in rows)


def page_of(cursor: sqlite3.Cursor) -> list[Record]:
    """The first records of a query, of ``PAGE_BYTES`` or one more than fit; it is closed then."""
    page, size = [], 0
    with closing(cursor):
        for record in records_of(cursor):
            page.append(record)
            size += len(record.payload)
            if size >= PAGE_BYTES:
                break
    return page


def text_of(task_id: bytes) -> str:
    """An id, whatever bytes it has."""
    return task_id.decode(errors="backslashreplace")


def next_records(db: sqlite3.Connection, after: int, last: int | None, limit: int) -> list[Record]:
    """Those after a position, up to another one: a page, of ``limit`` at most."""
    cursor = db.execute(
        f"SELECT {TASK_ID}, {BODY}, position FROM records"
        " WHERE position > ?1 AND (?2 IS NULL OR position <= ?2) ORDER BY position LIMIT ?3",
        (after, last, limit),
    )
    return page_of(cursor)
