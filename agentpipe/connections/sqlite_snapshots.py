"""Snapshots: read-only access to an existing SQLite file, beside any writers."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from agentpipe.connections import private_files
from agentpipe.connections.sqlite import PATIENCE_S
from agentpipe.connections.sqlite_errors import is_outage, unusable
from agentpipe.errors import ConfigError, StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentpipe.connections.sqlite_layout import Layout


class Snapshots:
    """A read-only connection, shared by the threads of a process.

    Every method may raise ``Unreachable``, or ``StoreError`` for an error that is not an outage.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        """Open the file.

        Raises:
            ConfigError: The file is missing, is not a database, or has other tables or a layout
                of another version.
            Unreachable: It has lost its main table, or this user may not read it.
        """
        self.path = path
        self._mutex = threading.RLock()
        try:
            with self._translated():
                if not _is_file(path):
                    raise ConfigError(f"there is no file {path}")
                private_files.refuse_strange(path)
                self._connection = self._connect()
                self._file = _identity(path)
        except StoreError as error:
            raise unusable(path, error) from error.__cause__
        self._refuse_foreign(layout)

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._connected("mode=ro")
        except sqlite3.OperationalError:
            if self._has_log():
                raise
            # In a folder that we cannot write, SQLite cannot create the files of its log. No
            # process has the file open, otherwise they would exist.
            return self._connected("immutable=1")

    def _has_log(self) -> bool:
        log = self.path.with_name(f"{self.path.name}-wal")
        return log.exists() and log.stat().st_size > 0

    def _connected(self, parameters: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?{parameters}",
            uri=True,
            timeout=PATIENCE_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA trusted_schema = OFF")  # The file can come from a stranger.
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
        return connection

    def _refuse_foreign(self, layout: Layout) -> None:
        with self.read() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            rows = db.execute("SELECT name, type FROM sqlite_schema").fetchall()
        if not rows:
            return  # Another process is creating its tables.
        layout.refuse_damaged(self.path, version, [name for name, kind in rows if kind == "table"])
        if (layout.table, "table") not in rows or any(kind == "view" for _, kind in rows):
            raise ConfigError(f"{self.path} holds other tables: it is not an archive")
        if layout.statements_from(version) is None:
            raise ConfigError(
                f"{self.path} has layout {version}, this agentpipe knows {layout.version}: "
                "use the version that wrote it, or another file"
            )

    def refuse_earlier(self, layout: Layout) -> None:
        """Refuse a file of an older layout.

        Raises:
            Unreachable: The file was not upgraded yet; a process that writes does it on opening.
        """
        with self.read() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
        if version < layout.version:
            self.close()
            raise Unreachable(
                f"{self.path} has layout {version}, to be read here it needs {layout.version}: "
                "agentpipe status or a worker of this version upgrades it"
            )

    def is_empty(self) -> bool:
        """Whether the file has no tables yet."""
        with self.read() as db:
            return db.execute("SELECT 1 FROM sqlite_schema").fetchone() is None

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One snapshot for all queries of the block.

        Raises:
            Unreachable: The file was replaced: open it again.
        """
        with self._mutex, self._translated():
            if _identity(self.path) != self._file:
                raise Unreachable(f"{self.path} was replaced by another file")
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._mutex:
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if is_outage(error):
                raise Unreachable(f"cannot use {self.path}: {error}") from error
            raise StoreError(f"{self.path}: {error}") from error


def _is_file(path: Path) -> bool:
    """Whether it is one; an error, in every version of Python, if we may not search its folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return stat.S_ISREG(path.stat().st_mode)
    return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
