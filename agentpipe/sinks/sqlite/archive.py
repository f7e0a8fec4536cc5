"""SqliteArchive: the SQLite sink's file, opened for searches only."""

from __future__ import annotations

import logging
import os
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress, parse_url
from agentpipe.connections.sqlite_snapshots import Snapshots
from agentpipe.errors import StoreError, Unreachable
from agentpipe.sinks.sqlite.facts import FEW, count_unindexed, index_next
from agentpipe.sinks.sqlite.layout import LAYOUT
from agentpipe.sinks.sqlite.searching import asks_indices, runs_of, search

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentpipe.sinks.base import Query, Record

# Indexing more than this takes a second or two, so it is logged.
MANY = 50_000

log = logging.getLogger(__name__)


class SqliteArchive:
    """The ``Searchable`` over ``sqlite:///file``, which must exist."""

    def __init__(self, url: str) -> None:
        self._path = parse_url(url).path
        self._snapshots = Snapshots(self._path, LAYOUT)

    def search(self, query: Query) -> Iterator[Record]:
        """Search the file; first indexes missing records if the file is writable."""
        if self._snapshots.is_empty():
            return iter(())
        if asks_indices(query):
            left = count_unindexed(self._snapshots)
            if left > FEW and _may_write(self._path):
                _index(self._path, left)
        return search(self._snapshots, query)

    def runs(self) -> list[str]:
        """See ``KnowsRuns``."""
        return [] if self._snapshots.is_empty() else runs_of(self._snapshots)

    def close(self) -> None:
        """Close the file."""
        self._snapshots.close()


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _index(path: Path, count: int) -> None:
    """Index a file; skipped if it is locked, since searches also work without, only slower."""
    if count > MANY:
        log.warning("indexing %s results of %s, once", f"{count:,}", path)
    with (
        suppress(StoreError, Unreachable),
        closing(Database(SqliteAddress(path, "normal"), LAYOUT)) as database,
    ):
        while index_next(database):
            pass
