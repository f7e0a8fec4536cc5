"""Facts: the indexed fields that a search finds records by.

Records are indexed in stream order, but after their publication, which indexing would slow down by
half: when a sink has little to do, and before a search that would have to read many records. So an
upgrade takes no time, and a writer of an earlier version does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from agentpipe.core.timestamps import seconds_of
from agentpipe.sinks.sqlite.last_keys import keys_from
from agentpipe.sinks.sqlite.layout import BODY

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from agentpipe.connections.sqlite import Database

# A search reads up to this many unindexed records one by one.
FEW = 1_000
LAYOUT_OF_FACTS = 3
# Limits of one indexing transaction, which blocks writers.
CHUNK, CHUNK_BYTES = 4_000, 32 * 1024**2
# A Result's last keys begin with this one, after its large fields.
_LAST_KEYS = b',"task_id":'
_INDEXED = "indexed"


class Readable(Protocol):
    """A file that can be read in snapshots."""

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        """One snapshot for all queries of the block."""


class Facts(NamedTuple):
    """A Result's searchable fields; None if missing or of another type.

    Attributes:
        finished_at: Unix seconds.
    """

    run: str | None = None
    group_id: str | None = None
    collection: str | None = None
    agent: str | None = None
    outcome: str | None = None
    finished_at: float | None = None


NONE = Facts()
_TEXTS = ("run", "group_id", "collection", "agent", "outcome")


def facts_of(payload: bytes) -> Facts:
    """The facts of an encoded Result; ``NONE`` if it is not a JSON object."""
    record = keys_from(payload, _LAST_KEYS)
    if not isinstance(record, dict):
        return NONE
    texts = {name: record[name] for name in _TEXTS if isinstance(record.get(name), str)}
    return Facts(**texts, finished_at=seconds_of(record.get("finished_at")))


def has_facts(db: sqlite3.Connection) -> bool:
    """Whether the file has this layout; a read-only file may have an earlier one."""
    return bool(db.execute("PRAGMA user_version").fetchone()[0] >= LAYOUT_OF_FACTS)


def indexed_to(db: sqlite3.Connection) -> int:
    """The position up to which records are indexed."""
    if not has_facts(db):
        return 0
    row = db.execute(
        "SELECT CAST(position AS INTEGER) FROM marks WHERE name = ?", (_INDEXED,)
    ).fetchone()
    return int(row[0]) if row else 0


def count_unindexed(database: Readable) -> int:
    """The number of positions that a search has to read one by one."""
    with database.read() as db:
        (last,) = db.execute("SELECT max(position) FROM records").fetchone()
        return max(0, int(last or 0) - indexed_to(db))


def index_next(database: Database, limit: int | None = None) -> int:
    """Index the next records of any writer, up to ``limit``; returns how many were read.

    Not durable: after a power loss they are indexed again.
    """
    with database.read() as db:
        mark = indexed_to(db)
        rows = list(_unindexed(db, mark, limit or CHUNK))
    if not rows:
        return 0
    with database.write(durable=False) as db:
        if indexed_to(db) == mark:  # Otherwise another process was faster.
            _keep(db, rows)
    return len(rows)


def _keep(db: sqlite3.Connection, rows: list[tuple[int, Facts]]) -> None:
    found = [(position, *facts) for position, facts in rows if facts != NONE]
    db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?, ?, ?)", found)
    db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (_INDEXED, rows[-1][0]))


def _unindexed(db: sqlite3.Connection, mark: int, limit: int) -> Iterator[tuple[int, Facts]]:
    read_bytes = 0
    rows = db.execute(
        f"SELECT position, {BODY} FROM records WHERE position > ? ORDER BY position LIMIT ?",
        (mark, limit),
    )
    for position, body in rows:
        yield position, facts_of(body)
        read_bytes += len(body)
        if read_bytes > CHUNK_BYTES:
            return
