"""One SQLite file that many processes write to.

SQLite's own busy handler sleeps between its tries, up to 100 ms, so under contention a short
transaction waits far longer than the one before it takes. Writers here queue on an advisory
lock of a file beside the database instead: the kernel wakes the next one at once, and frees
the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from agentpipe.connections import file_notify
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SYNCHRONOUS = ("full", "normal")


@dataclass(frozen=True, slots=True)
class SqliteAddress:
    """The path of a database, and how durable its commits are.

    Attributes:
        synchronous: ``full`` survives power loss; ``normal`` survives the death of any process,
            but a power loss may take the last commits.
    """

    path: Path
    synchronous: str = "full"


def parse_url(url: str) -> SqliteAddress:
    """``sqlite:///relative.db``, ``sqlite:////absolute.db``, with ``?synchronous=normal``.

    Raises:
        ConfigError: The URL is invalid; the message shows a valid one.
    """
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path or "\0" in path:
        raise ConfigError(f"{url}: write sqlite:///file.db, or sqlite:////folder/file.db")
    synchronous = "full"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "synchronous":
            hint = did_you_mean(name, ["synchronous"])
            raise ConfigError(f"{url}: unknown parameter {name!r}: {hint}")
        if value.lower() not in _SYNCHRONOUS:
            raise ConfigError(f"{url}: synchronous is full or normal, not {value!r}")
        synchronous = value.lower()
    return SqliteAddress(Path(path).absolute(), synchronous)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of a database.

    Attributes:
        version: Kept in the file; it rises with each change of the tables.
        schema: Makes them in an empty file.
        upgrades: The statements that make layout ``n + 1`` of layout ``n``, by ``n``. Processes of
            the earlier version may have the file open meanwhile: add columns with a default, and
            tables; never rename or remove.
    """

    version: int
    schema: str
    upgrades: Mapping[int, str] = field(default_factory=dict)

    def statements_from(self, found: int) -> list[str] | None:
        """What brings a file of layout ``found`` here; None where that is not possible."""
        if found == 0:
            return self.schema.split(";\n")
        steps = [self.upgrades.get(step) for step in range(found, self.version)]
        if found > self.version or None in steps:
            return None
        return [statement for step in steps if step for statement in step.split(";\n")]


class Database:
    """A connection of one process, shared by its threads.

    Every method may raise ``Unreachable``. A forked child must not use it.
    """

    def __init__(self, address: SqliteAddress, layout: Layout) -> None:
        self.path = address.path
        self._durable = address.synchronous == "full"
        self._mutex = threading.RLock()
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{self.path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._connection = self._connect()
            self._wal = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._migrate(layout)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=30, isolation_level=None, check_same_thread=False
        )
        with self._locked():
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _migrate(self, layout: Layout) -> None:
        with self.write() as connection:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found == layout.version:
                return
            statements = layout.statements_from(found)
            if statements is None:
                raise Unreachable(
                    f"{self.path} has layout {found}, this agentpipe knows {layout.version}: "
                    "use the version that wrote it, or another file"
                )
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {layout.version}")

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction that commits at the end of the block, or not at all.

        Without ``durable`` it does not wait for the disk: a power loss can undo it until the next
        durable transaction.
        """
        with self._translated():
            with self._transaction() as connection:
                yield connection
            if durable:
                self.sync()

    def sync(self) -> None:
        """Wait until all commits are on the disk, unless the URL says ``normal``.

        This is what SQLite does for ``synchronous = FULL``, but after the locks are free: while
        one writer waits for the disk the next one works, and one sync serves them all.
        """
        if self._durable:
            with self._translated():
                os.fdatasync(self._wal)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._locked():
            before = self._connection.total_changes
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                changed = self._connection.total_changes != before
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise
            if changed:  # Else a listener that opens a transaction would wake itself for ever.
                with suppress(OSError):  # The disk may be full; listeners wake at times anyway.
                    file_notify.notify(self._lock)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One snapshot for all queries of the block."""
        with self._mutex, self._translated():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    def listener(self) -> file_notify.Listener:
        """A listener for commits of any process, for one thread; the caller closes it."""
        with self._translated():
            return file_notify.listen(f"{self.path}-lock", lambda: VersionProbe(self.path).changed)

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._mutex:
            if self._lock >= 0:
                os.close(self._wal)
                self._connection.close()
                os.close(self._lock)
                self._lock = -1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._lock < 0:
            raise Unreachable(f"{self.path} is closed")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unreachable(f"cannot use {self.path}: {error}") from error


class VersionProbe:
    """Detects commits by polling, where there is no notification."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._seen = self._version()

    def changed(self) -> bool:
        """Whether another connection has committed since the last call."""
        version = self._version()
        changed = version != self._seen
        self._seen = version
        return changed

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)
