"""One SQLite file that many processes write to.

SQLite's own busy handler sleeps up to 100 ms between attempts, so under contention a short
transaction waits far longer than the previous one takes. Writers here instead poll an advisory lock
on a file beside the database, with shorter pauses. The kernel frees the lock when its process ends.
A stopped process keeps it, so a wait ends with an error that names the process.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.connections import file_notify, private_files, wal
from agentpipe.connections.file_lock import FileLock, pauses
from agentpipe.connections.lock_holders import holders_of_bytes, holders_of_file, what_to_do
from agentpipe.connections.sqlite_errors import is_of_disk, is_outage, unusable
from agentpipe.connections.version_probe import VersionProbe
from agentpipe.errors import ConfigError, StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentpipe.connections.lock_holders import Holder
    from agentpipe.connections.sqlite_address import SqliteAddress
    from agentpipe.connections.sqlite_layout import Layout

    OnReturn = Callable[[sqlite3.Connection, float], str]

# How long to wait for a lock that other processes hold.
PATIENCE_S = 5.0
# Shorter waits do not count as an outage.
OUTAGE_S = 1.0
# The byte of the shared-memory file that SQLite's writer locks.
WRITER_BYTE = 120
# Prepared statements to cache. A store's cycle uses dozens, most in variants by number of rows.
STATEMENTS = 256

log = logging.getLogger(__name__)


class Database:
    """A connection of one process, shared by its threads.

    Every method may raise ``Unreachable``, or ``StoreError`` for an error that is not an outage. A
    forked child must not use it.

    Attributes:
        failing_since: When the current series of failed writes began, on the monotonic clock; -inf
            if it began before this process stored anything.
        log: Its write-ahead log.
    """

    def __init__(
        self, address: SqliteAddress, layout: Layout, on_return: OnReturn | None = None
    ) -> None:
        """Open the file.

        Args:
            address: The file.
            layout: Its tables, which are created or upgraded.
            on_return: Called at the start of the first transaction after an outage of writes (full
                disk, lock) with ``failing_since``; returns what to log once that transaction is
                stored.
        """
        self.path, self.log = address.path, wal.WriteAheadLog(address.path)
        self._on_return = on_return
        self.failing_since: float | None = None
        self._has_stored = False
        self._durable = address.synchronous == "full"
        self._hushed = False
        self._write_back = wal.WriteBack(address.path)
        self._mutex = threading.RLock()
        try:
            self._open(layout)
        except StoreError as error:
            raise unusable(self.path, error) from error.__cause__

    def _open(self, layout: Layout) -> None:
        with self._translated():
            private_files.make_folder(self.path.parent)
            self._lock = FileLock(Path(f"{self.path}-lock"), self.path)
            self._connection = self._connect()
            self._identity = _identity(self.path)
            self._wal = private_files.open_beside(Path(f"{self.path}-wal"), self.path)
            self._migrate(layout)
            _warn_of_others(self.path)

    def _connect(self) -> sqlite3.Connection:
        with self._locked(time.monotonic() + PATIENCE_S):
            private_files.refuse_strange(self.path)
            private_files.make_file(self.path)  # SQLite would make it readable by all users.
            connection = sqlite3.connect(
                self.path,
                timeout=PATIENCE_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=STATEMENTS,
            )
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA trusted_schema = OFF")  # The file can come from a stranger.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA busy_timeout = 0")  # ``_begin`` handles a busy file.
        connection.execute(f"PRAGMA journal_size_limit = {wal.KEPT_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {wal.MOST_PAGES}")
        return connection

    def _migrate(self, layout: Layout) -> None:
        with self.write() as connection:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            self._refuse_foreign(connection, layout, found)
            if found == layout.version:
                return
            statements = layout.statements_from(found)
            if statements is None:
                raise ConfigError(
                    f"{self.path} has layout {found}, this agentpipe knows {layout.version}: "
                    "use the version that wrote it, or another file"
                )
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {layout.version}")

    def _refuse_foreign(self, connection: sqlite3.Connection, layout: Layout, found: int) -> None:
        rows = connection.execute("SELECT name, type FROM sqlite_schema").fetchall()
        tables = {name for name, kind in rows if kind == "table"}
        if views := sorted(name for name, kind in rows if kind == "view"):
            # We create no views; a stranger's view can compute without end.
            raise ConfigError(f"{self.path} holds views ({', '.join(views[:3])}): it is not ours")
        layout.refuse_damaged(self.path, found, tables)
        if tables and (not found or layout.table not in tables):
            raise ConfigError(
                f"{self.path} holds other tables ({', '.join(sorted(tables)[:3])}): "
                "broker and sink need a file each, of their own"
            )

    @contextmanager
    def write(
        self, *, durable: bool = True, patience_s: float = PATIENCE_S
    ) -> Iterator[sqlite3.Connection]:
        """One transaction that commits at the end of the block, or rolls back on an error.

        Without ``durable`` it does not wait for the disk: a power loss can undo it until the next
        durable transaction. It waits at most ``patience_s`` for other writers.
        """
        with self._translated():
            with self._transaction(time.monotonic() + patience_s) as connection:
                yield connection
            if durable:
                self.sync()

    def hush(self) -> None:
        """Do not wake listeners when this thread's current transaction commits."""
        self._hushed = True

    def sync(self) -> None:
        """Wait until all commits are on disk, unless the URL says ``normal``.

        SQLite does the same for ``synchronous = FULL``, but here it happens after the locks are
        released: the next writer works while this one waits, and one sync serves them all. For the
        same reason the log is checkpointed here.
        """
        if self._durable:
            with self._translated():
                os.fdatasync(self._wal)
        self._write_back.if_due()

    @contextmanager
    def _transaction(self, deadline: float) -> Iterator[sqlite3.Connection]:
        with self._outage_noted() as since, self._begun(deadline):
            before, self._hushed = self._connection.total_changes, False
            try:
                said = self._returned(since) if time.monotonic() - since > OUTAGE_S else ""
                yield self._connection
                changed = self._connection.total_changes - before
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise
            if said:  # Not at each failed try, which stores nothing.
                log.warning("%s", said)
            if changed:  # A transaction without changes succeeds on a full disk, too.
                self.failing_since, self._has_stored = None, True
            self._write_back.changes += changed
            if (
                changed and not self._hushed
            ):  # Else a listener that opens a transaction would wake itself forever.
                with suppress(OSError):  # The disk may be full; listeners also wake on timeout.
                    file_notify.notify(self._lock.file)

    def _returned(self, since: float) -> str:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if self._on_return is None or not version:  # A new file has no tables yet.
            return ""
        return self._on_return(self._connection, since)

    @contextmanager
    def _outage_noted(self) -> Iterator[float]:
        """Track an outage: yields when it began, or the current time if there is none."""
        since = time.monotonic() if self.failing_since is None else self.failing_since
        try:
            yield since
        except (sqlite3.Error, OSError, Unreachable) as error:
            if isinstance(error, Unreachable) or is_outage(error):
                self.failing_since = since if self._has_stored else -math.inf
            if is_of_disk(error):
                self._write_back.begin_anew()
            raise

    @contextmanager
    def _begun(self, deadline: float) -> Iterator[None]:
        """Hold the locks of the file and of this connection, within a write transaction."""
        for pause_s in pauses():
            with self._locked(deadline), self._mutex:
                if self._begin("BEGIN IMMEDIATE", deadline):
                    yield
                    return
            time.sleep(pause_s)  # Our lock is released here: the other writer does not use it.

    def _begin(self, statement: str, deadline: float) -> bool:
        """Begin a transaction; False while a foreign program holds the file.

        SQLite itself would wait while we hold our lock, and would not say what it waits for.
        """
        self._refuse_removed()
        try:
            self._connection.execute(statement)
            self._connection.execute("SELECT 1 FROM sqlite_schema")
        except sqlite3.OperationalError as error:
            if self._connection.in_transaction:
                self._connection.rollback()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() >= deadline:
                raise self._locked_by_others() from error
            return False
        return True

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One snapshot for all queries of the block."""
        deadline = time.monotonic() + PATIENCE_S
        with self._mutex, self._translated():
            for pause_s in pauses():
                if self._begin("BEGIN", deadline):
                    break
                time.sleep(pause_s)
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    def vacuum(self) -> None:
        """Rewrite the file without its free pages. Writers wait, or time out with a lock error.

        SQLite writes the whole content to the log first, and then from the log to the file.

        Raises:
            Unreachable: The disk has too little space, or others are writing.
        """
        size = self.path.stat().st_size
        if (free := shutil.disk_usage(self.path.parent).free) < 2 * size:
            raise Unreachable(
                f"{self.path} has {size:,} bytes, and its disk only {free:,}: to vacuum takes "
                "twice the size of the file for a while"
            )
        with self._translated(), self._locked(time.monotonic() + PATIENCE_S), self._mutex:
            self._refuse_removed()
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.sync()

    def listener(self) -> file_notify.Listener:
        """A listener for commits of any process, for one thread; the caller closes it."""
        with self._translated():
            return file_notify.listen(f"{self.path}-lock", lambda: VersionProbe(self.path).changed)

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._mutex:
            if not self._lock.is_closed:
                os.close(self._wal)
                self._write_back.close()
                self._connection.close()
                self._lock.close()

    @contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        if self._lock.is_closed:
            raise Unreachable(f"{self.path} is closed")
        if not self._lock.acquire(deadline):
            raise self._locked_by_others()
        try:
            yield
        finally:
            self._lock.release()

    def _locked_by_others(self) -> Unreachable:
        return Unreachable(f"{self.path} is locked: {what_to_do(self._holders())}")

    def _holders(self) -> list[Holder]:
        """The processes that block writers: in a transaction, or just before or after one."""
        shared = Path(f"{self.path}-shm")
        return holders_of_bytes(shared, WRITER_BYTE, WRITER_BYTE, "WRITE") or holders_of_file(
            self._lock.path
        )

    def _refuse_removed(self) -> None:
        """Refuse a file that lost its name: other processes would not see our writes to it."""
        if _identity(self.path) != self._identity:
            raise Unreachable(
                f"{self.path} was removed or replaced while it was in use, with all that was in "
                "it: end this process and start it again"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if is_outage(error) or self._lock.is_closed:
                raise Unreachable(f"cannot use {self.path}: {error}") from error
            raise StoreError(f"{self.path}: {error}") from error


@cache
def _warn_of_others(path: Path) -> None:
    """Warn once per process if other users can open the files; ``doctor`` reports it too."""
    if found := private_files.open_to_others(private_files.parts_of(path)):
        log.warning("%s: %s", path, private_files.advice(found))


def _identity(path: Path) -> tuple[int, int] | None:
    """The identity of the file at a path; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
