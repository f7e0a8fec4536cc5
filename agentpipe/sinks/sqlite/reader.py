"""Readers of the SQLite stream, with and without a group.

A group's readers share it by loans: a range of records is lent to one reader, which commits it
record by record. A reader is alive while it holds an advisory lock on its own file: the kernel
frees the lock when the process dies, however long a record takes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.core import caps
from agentpipe.sinks.reader_lock import ReaderLock
from agentpipe.sinks.seen import submission_in
from agentpipe.sinks.sqlite.layout import LAYOUT, TASK_ID, next_records, text_of

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.connections.file_notify import Listener
    from agentpipe.sinks.base import Record

# Number of earlier records whose ids a group's reader knows.
RECALLED = 20_000
# A lent record can still return to the group, and is then not a repeat.
_USED_BEFORE = """
FROM records WHERE position >= ? AND position < ? AND NOT EXISTS (
    SELECT 1 FROM loans WHERE owner = ? AND position BETWEEN first AND last)
"""


class SqliteReader:
    """Reads without a group."""

    def __init__(self, database: Database, after: int) -> None:
        self._database, self._after = database, after
        self._listener = database.listener()

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        while True:
            with self._database.read() as db:
                records = next_records(db, self._after, None, limit)
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
        # A power loss can undo a commit, which repeats a record but loses none: ``normal`` is
        # enough here, and eight times as fast.
        self._database = Database(SqliteAddress(address.path, "normal"), LAYOUT)
        self._listener = self._database.listener()
        self._group = group
        self._lock = ReaderLock(address.path)
        self._lent: list[_Loan] = []  # In polling order, not stream order.
        with self._database.write() as db:
            db.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", (group, after + 1))
        self._first = 0

    def recall(self) -> list[str]:
        if self._first or not self._lent:
            return []
        self._first = self._lent[0].first
        with self._database.read() as db:
            rows = db.execute(f"SELECT {TASK_ID} {_USED_BEFORE}", self._before)
            return [text_of(task_id) for (task_id,) in rows]

    def submissions(self, task_id: str) -> set[str | None]:
        """The submissions of a recalled id; read on demand, because a trace can be large."""
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
        """Borrow a dead reader's records, or else the group's next ones."""
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
                records = next_records(db, first - 1, last, limit)
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
        records = next_records(db, start - 1, None, limit)
        if records:
            after = (records[-1].position + 1, self._group)
            db.execute("UPDATE groups SET next = ? WHERE name = ?", after)
        return records


@dataclass(frozen=True, slots=True)
class _Loan:
    """A range of positions that this reader has polled and not committed."""

    rowid: int
    first: int
    last: int

    def covers(self, record: Record) -> bool:
        return bool(self.first <= record.position <= self.last)


def _notified_before(listener: Listener, deadline: float) -> bool:
    left_s = deadline - time.monotonic()
    return left_s > 0 and listener.wait(left_s)
