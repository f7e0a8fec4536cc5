"""SqliteSink: the embedded stream, one file for any number of writers and readers.

A group's readers share it by loans: a range of records is lent to one reader, which commits it
record by record. A reader is alive while it holds an advisory lock on a file of its own: the
kernel frees the lock when the process dies, however long a record takes.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentpipe.connections.health import examine_folder
from agentpipe.connections.private_files import examine_modes
from agentpipe.connections.sqlite import Database, Layout, SqliteAddress, parse_url
from agentpipe.core import caps
from agentpipe.errors import RecordsRefused, StoreError
from agentpipe.sinks.base import Record
from agentpipe.sinks.reader_lock import ReaderLock
from agentpipe.sinks.seen import submission_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.connections.file_notify import Listener
    from agentpipe.connections.health import Finding
    from agentpipe.sinks.base import Query, Start

# Number of records before its first one whose ids a group's reader knows.
RECALLED = 20_000
# Number of found records in memory at a time.
PAGE = 256
_SCHEMA = """
CREATE TABLE records (
    position INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, digest BLOB NOT NULL,
    body BLOB NOT NULL, published_at REAL NOT NULL, UNIQUE (task_id, digest));
CREATE INDEX records_by_time ON records (published_at);
CREATE TABLE groups (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE loans (
    owner TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reader TEXT NOT NULL);
CREATE INDEX loans_by_owner ON loans (owner)
"""
LAYOUT = Layout(2, "records", _SCHEMA)
# A lent record may still come back, and is then not a repeat.
_USED_BEFORE = """
FROM records WHERE position >= ? AND position < ? AND NOT EXISTS (
    SELECT 1 FROM loans WHERE owner = ? AND position BETWEEN first AND last)
"""
# Others may write here, too: SQLite keeps values of any type, and a text that is no UTF-8.
_TASK_ID = "CAST(task_id AS BLOB)"
# What SQLite says of a row, such as a constraint or a value that is too big.
_OF_RECORDS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
REMEDY = "the reason is SQLite's: a constraint of the file, or its limit for one value"


class SqliteSink:
    """The ``Sink`` over ``sqlite:///file``; a Result published twice is stored once."""

    def __init__(self, url: str) -> None:
        self._address = parse_url(url)
        self._database = Database(self._address, LAYOUT)

    def publish(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._database.log.refuse_if_full()
        try:
            self._publish(records)
        except (StoreError, ValueError, OverflowError, TypeError) as error:
            # Python's own errors come from values that it cannot hand over.
            if isinstance(error, StoreError) and not isinstance(error.__cause__, _OF_RECORDS):
                raise
            too_large = isinstance(error.__cause__, sqlite3.DataError)
            raise RecordsRefused(str(error), too_large=too_large, remedy=REMEDY) from error

    def _publish(self, records: Sequence[Record]) -> None:
        now = time.time()
        rows = [(each.task_id, _digest(each), each.payload, now) for each in records]
        with self._database.write() as db:
            # Not OR IGNORE, which would lose a record that breaks any other constraint.
            db.executemany(
                "INSERT INTO records (task_id, digest, body, published_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (task_id, digest) DO NOTHING",
                rows,
            )

    def examine(self) -> list[Finding]:
        """Findings on its folder."""
        path = self._database.path
        return [*examine_folder(path), examine_modes(path), self._database.log.examine()]

    def find(self, task_id: str) -> int | None:
        """See ``Index``."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT position FROM records WHERE task_id = ?", (task_id,)
            ).fetchone()
        return None if row is None else int(row[0])

    def search(self, query: Query) -> Iterator[Record]:
        """See ``Searchable``."""
        after = 0
        while True:
            with self._database.read() as db:
                records = _found(db, query, after)
            yield from records
            if len(records) < PAGE:
                return
            after = records[-1].position

    def follow(self, group: str | None, start: Start) -> SqliteReader | SqliteGroupReader:
        with self._database.read() as db:
            after = _position_before(db, start)
        if group is None:
            return SqliteReader(self._database, after)
        return SqliteGroupReader(self._address, group, after)

    def close(self) -> None:
        self._database.close()


class SqliteReader:
    """Reads without a group."""

    def __init__(self, database: Database, after: int) -> None:
        self._database, self._after = database, after
        self._listener = database.listener()

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        while True:
            with self._database.read() as db:
                records = _records(db, self._after, None, limit)
            if records or not _notified_before(self._listener, deadline):
                break
        if records:
            self._after = records[-1].position
        return records

    def commit(self, record: Record) -> None:
        """Nothing to do without a group."""

    def recall(self) -> list[str]:
        return []

    def close(self) -> None:
        self._listener.close()


class SqliteGroupReader:
    """Reads as a member of a group, from the group's last commit."""

    def __init__(self, address: SqliteAddress, group: str, after: int) -> None:
        # A power loss may undo a commit, which repeats a record but loses none: ``normal`` is
        # enough here, and eight times as fast.
        self._database = Database(SqliteAddress(address.path, "normal"), LAYOUT)
        self._listener = self._database.listener()
        self._group = group
        self._lock = ReaderLock(address.path)
        self._lent: list[_Loan] = []  # In the order of polling, not of the stream.
        with self._database.write() as db:
            db.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", (group, after + 1))
        self._first = 0

    def recall(self) -> list[str]:
        if self._first or not self._lent:
            return []
        self._first = self._lent[0].first
        with self._database.read() as db:
            rows = db.execute(f"SELECT {_TASK_ID} {_USED_BEFORE}", self._before)
            return [_text(task_id) for (task_id,) in rows]

    def submissions(self, task_id: str) -> set[str | None]:
        """See ``KnowsSubmissions``; read only now, because a trace may be large."""
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT CAST(body AS BLOB) {_USED_BEFORE} AND task_id = ? AND length(body) <= ?",
                (*self._before, task_id, caps.MAX_RECORD_BYTES),
            )
            return {submission_in(body) for (body,) in rows}

    @property
    def _before(self) -> tuple[int, int, str]:
        return self._first - RECALLED, self._first, self._group

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        while True:
            records = self._borrow(limit)
            if records or not _notified_before(self._listener, deadline):
                return records

    def commit(self, record: Record) -> None:
        used = next((n for n, loan in enumerate(self._lent) if loan.covers(record)), None)
        if used is None:
            return  # Already committed.
        loan = replace(self._lent[used], first=record.position + 1)
        ended = used + (loan.first > loan.last)
        with self._database.write() as db:
            db.executemany(
                "DELETE FROM loans WHERE rowid = ?", [(each.rowid,) for each in self._lent[:ended]]
            )
            if ended == used:
                db.execute("UPDATE loans SET first = ? WHERE rowid = ?", (loan.first, loan.rowid))
        self._lent[: used + 1] = [] if ended > used else [loan]

    def close(self) -> None:
        self._lock.release()
        self._listener.close()
        self._database.close()

    def _borrow(self, limit: int) -> list[Record]:
        """A dead reader's records, or else the group's next ones."""
        with self._database.write() as db:
            records = self._borrow_from_dead(db, limit) or self._borrow_next(db, limit)
            if not records:
                return []
            first, last = records[0].position, records[-1].position
            rowid = db.execute(
                "INSERT INTO loans VALUES (?, ?, ?, ?)",
                (self._group, first, last, self._lock.name),
            ).lastrowid
        assert rowid is not None
        self._lent.append(_Loan(rowid, first, last))
        return records

    def _borrow_from_dead(self, db: sqlite3.Connection, limit: int) -> list[Record]:
        loans = db.execute(
            "SELECT rowid, CAST(first AS INTEGER), CAST(last AS INTEGER), reader FROM loans"
            " WHERE owner = ? ORDER BY first",
            (self._group,),
        ).fetchall()
        for rowid, first, last, reader in loans:
            if not self._lock.is_alive(reader):
                records = _records(db, first - 1, last, limit)
                after = records[-1].position + 1 if records else last + 1
                db.execute("UPDATE loans SET first = ? WHERE rowid = ?", (after, rowid))
                db.execute("DELETE FROM loans WHERE rowid = ? AND first > last", (rowid,))
                if records:
                    return records
        return []

    def _borrow_next(self, db: sqlite3.Connection, limit: int) -> list[Record]:
        (start,) = db.execute(
            "SELECT CAST(next AS INTEGER) FROM groups WHERE name = ?", (self._group,)
        ).fetchone()
        records = _records(db, start - 1, None, limit)
        if records:
            after = (records[-1].position + 1, self._group)
            db.execute("UPDATE groups SET next = ? WHERE name = ?", after)
        return records


@dataclass(frozen=True, slots=True)
class _Loan:
    """A range of positions polled and not committed by this reader."""

    rowid: int
    first: int
    last: int

    def covers(self, record: Record) -> bool:
        return bool(self.first <= record.position <= self.last)


def _position_before(db: sqlite3.Connection, start: Start) -> int:
    if start == "beginning":
        return 0
    if start == "now":
        found = db.execute("SELECT max(position) FROM records").fetchone()
    else:
        found = db.execute(
            "SELECT max(position) FROM records WHERE published_at < ?", (start,)
        ).fetchone()
    return int(found[0] or 0)


def _records(db: sqlite3.Connection, after: int, last: int | None, limit: int) -> list[Record]:
    """The next ones; of one that is too large, which is none of ours, an empty one."""
    rows = db.execute(
        f"SELECT {_TASK_ID}, CASE WHEN length(body) <= ?4 THEN CAST(body AS BLOB) ELSE x'' END,"
        " position FROM records"
        " WHERE position > ?1 AND (?2 IS NULL OR position <= ?2) ORDER BY position LIMIT ?3",
        (after, last, limit, caps.MAX_RECORD_BYTES),
    )
    return [Record(_text(task_id), body, position) for task_id, body, position in rows]


def _found(db: sqlite3.Connection, query: Query, after: int) -> list[Record]:
    """The next page; what is no JSON is no Result."""
    asked = {
        "run": query.run,
        "group_id": query.group,
        "collection": query.collection,
        "outcome": query.outcome,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    conditions = [f"json_extract(CAST(body AS TEXT), '$.{name}') = ?" for name in given]
    where = " AND ".join(["position > ?", "json_valid(CAST(body AS TEXT))", *conditions])
    if query.task_id is not None:
        where, given = f"{where} AND task_id = ?", {**given, "task_id": query.task_id}
    rows = db.execute(
        f"SELECT {_TASK_ID}, CAST(body AS BLOB), position FROM records"
        f" WHERE {where} AND length(body) <= ? ORDER BY position LIMIT ?",
        (after, *given.values(), caps.MAX_RECORD_BYTES, PAGE),
    )
    return [Record(_text(task_id), body, position) for task_id, body, position in rows]


def _text(task_id: bytes) -> str:
    return task_id.decode(errors="backslashreplace")


def _digest(record: Record) -> bytes:
    """Distinguishes a republished Result from another run's Result of the same task."""
    return hashlib.blake2b(record.payload, digest_size=8).digest()


def _notified_before(listener: Listener, deadline: float) -> bool:
    left_s = deadline - time.monotonic()
    return left_s > 0 and listener.wait(left_s)
