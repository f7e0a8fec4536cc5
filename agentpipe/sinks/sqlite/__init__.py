"""SqliteSink: the embedded stream, one file for any number of writers and readers."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.connections.health import examine_folder
from agentpipe.connections.private_files import examine_modes
from agentpipe.connections.sqlite import Database, parse_url
from agentpipe.errors import RecordsRefused, StoreError, Unreachable
from agentpipe.sinks.sqlite.archive import SqliteArchive
from agentpipe.sinks.sqlite.facts import FEW, index_next
from agentpipe.sinks.sqlite.layout import LAYOUT
from agentpipe.sinks.sqlite.reader import SqliteGroupReader, SqliteReader
from agentpipe.sinks.sqlite.searching import search

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.connections.health import Finding
    from agentpipe.sinks.base import Query, Record, Start

# What SQLite says of a row, such as a constraint or a value that is too big.
_OF_RECORDS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
# With so few records a publish, a sink has time to index.
SMALL = 8
REMEDY = "the reason is SQLite's: a constraint of the file, or its limit for one value"


class SqliteSink:
    """The ``Sink`` over ``sqlite:///file``; a Result published twice is stored once."""

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
            # Python's own errors come from values that it cannot hand over.
            if isinstance(error, StoreError) and not isinstance(error.__cause__, _OF_RECORDS):
                raise
            too_large = isinstance(error.__cause__, sqlite3.DataError)
            raise RecordsRefused(str(error), too_large=too_large, remedy=REMEDY) from error
        self._unindexed += len(records)
        if self._unindexed >= FEW and len(records) <= SMALL:
            self._unindexed = 0
            # What is published is safe: a failure only makes searches slower.
            with suppress(StoreError, Unreachable):
                index_next(self._database)

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
        return search(self._database, query)

    @staticmethod
    def archive(url: str) -> SqliteArchive:
        """See ``open_archive``."""
        return SqliteArchive(url)

    def follow(self, group: str | None, start: Start) -> SqliteReader | SqliteGroupReader:
        with self._database.read() as db:
            after = _position_before(db, start)
        if group is None:
            return SqliteReader(self._database, after)
        return SqliteGroupReader(self._address, group, after)

    def close(self) -> None:
        self._database.close()


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


def _digest(record: Record) -> bytes:
    """Distinguishes a republished Result from another run's Result of the same task."""
    return hashlib.blake2b(record.payload, digest_size=8).digest()
