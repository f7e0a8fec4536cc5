"""The tables of the SQLite sink's file, and the conversion of rows to records."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from agentpipe.connections.sqlite_layout import Layout
from agentpipe.core import caps
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

# The fields that ``facts`` indexes for searches. They are in a separate table, so that an upgrade
# copies no records, and are filled in large batches, which costs less than in each publish.
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
# What was removed last: a worker that was killed between publishing and dropping it from its outbox
# leaves it to another one, which publishes it again.
_TRIMMED = """
CREATE TABLE trimmed (
    position INTEGER PRIMARY KEY, task_id TEXT NOT NULL, digest BLOB NOT NULL,
    UNIQUE (task_id, digest))
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
{_FACTS.strip()};
{_TRIMMED.strip()}
"""
# Bytes of records in memory at a time; a search can stop anywhere.
PAGE_BYTES = 16 * caps.MIB
LAYOUT = Layout(4, "records", _SCHEMA, {2: _FACTS, 3: _TRIMMED})
# Other programs can write here too: SQLite keeps values of any type, and invalid UTF-8.
TASK_ID = "CAST(task_id AS BLOB)"
# The body, or an empty one if it is too large, and therefore foreign.
BODY = f"CASE WHEN length(body) <= {caps.MAX_RECORD_BYTES} THEN CAST(body AS BLOB) ELSE x'' END"


def records_of(rows: Iterable[tuple[bytes, bytes, int]]) -> Iterator[Record]:
    """Convert rows of ``TASK_ID``, ``BODY`` and position to records."""
    return (Record(text_of(task_id), body, position) for task_id, body, position in rows)


def page_of(cursor: sqlite3.Cursor) -> list[Record]:
    """The first records of a query, up to and including the one that fills ``PAGE_BYTES``.

    The cursor is closed afterwards.
    """
    page, size = [], 0
    with closing(cursor):
        for record in records_of(cursor):
            page.append(record)
            size += len(record.payload)
            if size >= PAGE_BYTES:
                break
    return page


def text_of(task_id: bytes) -> str:
    """Decode a task id, even if it is not UTF-8."""
    return task_id.decode(errors="backslashreplace")


def next_records(db: sqlite3.Connection, after: int, last: int | None, limit: int) -> list[Record]:
    """A page of up to ``limit`` records after one position, and up to another."""
    cursor = db.execute(
        f"SELECT {TASK_ID}, {BODY}, position FROM records"
        " WHERE position > ?1 AND (?2 IS NULL OR position <= ?2) ORDER BY position LIMIT ?3",
        (after, last, limit),
    )
    return page_of(cursor)
