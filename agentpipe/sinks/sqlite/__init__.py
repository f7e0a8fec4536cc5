"""SqliteSink: the embedded stream, one file for any number of writers and readers."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.connections.health import examine_folder
from agentpipe.connections.private_files import examine_modes
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import parse_url
from agentpipe.core import caps
from agentpipe.errors import RecordsRefused, StoreError, Unreachable
from agentpipe.sinks.base import check_group
from agentpipe.sinks.sqlite import trimming
from agentpipe.sinks.sqlite.archive import SqliteArchive
from agentpipe.sinks.sqlite.facts import FEW, index_next
from agentpipe.sinks.sqlite.keeping import collector_of, insert, recall_verdicts, rows_of
from agentpipe.sinks.sqlite.layout import LAYOUT
from agentpipe.sinks.sqlite.reader import SqliteGroupReader, SqliteReader
from agentpipe.sinks.sqlite.searching import positions_of, search
from agentpipe.sinks.truncate import truncate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.connections.health import Finding
    from agentpipe.connections.scratch import Scratch
    from agentpipe.sinks.base import ArchiveSize, Query, Record, Start

# SQLite's errors about a row, such as a constraint or a value that is too big.
_OF_RECORDS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
# After a publish of at most SMALL records, a sink has time to index up to AT_ONCE.
SMALL, AT_ONCE = 8, 100
CUT = "a file of results takes no larger record (MAX_RECORD_BYTES): let the agent answer less"
REMEDY = "the reason is SQLite's: a constraint of the file, or its limit for one value"


class SqliteSink:
    """The ``Sink`` over ``sqlite:///file``; of each submission one Result is stored, the first."""

    def __init__(self, url: str) -> None:
        self._address = parse_url(url)
        self._database = Database(self._address, LAYOUT)
        self._unindexed = 0

    def publish(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._database.log.refuse_if_full()
        try:
            self._publish(records)
        except (StoreError, ValueError, OverflowError, TypeError) as error:
            # Python raises its own errors for values that it cannot pass to SQLite.
            if isinstance(error, StoreError) and not isinstance(error.__cause__, _OF_RECORDS):
                raise
            too_large = isinstance(error.__cause__, sqlite3.DataError)
            raise RecordsRefused(str(error), too_large=too_large, remedy=REMEDY) from error
        self._unindexed += len(records)
        if self._unindexed >= FEW and len(records) <= SMALL:
            self._index_some()

    def _index_some(self) -> None:
        """Index some records; this process's runs wait for the GIL in that time."""
        # Published records are safe: a failure only makes searches slower.
        with suppress(StoreError, Unreachable):
            if index_next(self._database, AT_ONCE) < AT_ONCE:
                self._unindexed = 0

    def _publish(self, records: Sequence[Record]) -> None:
        rows = rows_of(_readable(records))
        with self._database.write() as db:
            recall_verdicts(db, rows)
            insert(db, rows, time.time())

    def add_new(self, records: Sequence[Record]) -> int:
        """Store the records of new submissions; returns how many."""
        self._database.log.refuse_if_full()
        rows = rows_of(_readable(records))
        with self._database.write() as db:
            return insert(db, rows, time.time())

    def reader_group(self) -> str:
        """See ``Keeper``."""
        with self._database.write() as db:
            return collector_of(db)

    def index(self) -> None:
        """See ``Keeper``."""
        while index_next(self._database):
            pass

    def examine(self) -> list[Finding]:
        """Check the folder, the file modes and the log."""
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
        return search(self._database, query)

    @staticmethod
    def scratch(url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.connections.sqlite_scratch import scratch_of

        return scratch_of(url, name)

    @staticmethod
    def check(url: str) -> None:
        """See ``ChecksUrl``."""
        if os.path.isfile(parse_url(url).path):  # noqa: PTH113 - Path raises in a closed folder
            with suppress(Unreachable, StoreError):  # A lock or a full disk can pass.
                SqliteArchive(url).close()

    @staticmethod
    def archive(url: str) -> SqliteArchive:
        """See ``open_archive``."""
        return SqliteArchive(url)

    def matching(self, query: Query) -> list[int]:
        """See ``Trimmable``."""
        self.index()
        with self._database.read() as db:
            found = positions_of(db, query)
            return sorted({*found, *trimming.ends_without(db, found, query)})

    def unread(self, positions: Sequence[int]) -> list[int]:
        """See ``Trimmable``."""
        with self._database.read() as db:
            return trimming.unread_of(db, positions)

    def remove(self, positions: Sequence[int], *, unread: bool) -> tuple[int, int]:
        """See ``Trimmable``."""
        return trimming.remove(self._database, positions, unread=unread)

    def vacuum(self) -> None:
        """See ``Trimmable``."""
        self._database.vacuum()

    def size(self) -> ArchiveSize:
        """See ``Trimmable``."""
        with self._database.read() as db:
            return trimming.size(db)

    def follow(self, group: str | None, start: Start) -> SqliteReader | SqliteGroupReader:
        check_group(group)
        with self._database.read() as db:
            after = _position_before(db, start)
        if group is None:
            return SqliteReader(self._database, after)
        return SqliteGroupReader(self._address, group, after)

    def close(self) -> None:
        self._database.close()


def _readable(records: Sequence[Record]) -> list[Record]:
    """The same records, cut to the size that readers accept."""
    most = caps.MAX_RECORD_BYTES
    return [
        replace(each, payload=truncate(each, most, CUT)) if len(each.payload) > most else each
        for each in records
    ]


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
