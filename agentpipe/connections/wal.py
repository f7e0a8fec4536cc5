"""The write-ahead log of an SQLite file, which grows while a transaction keeps reading.

SQLite keeps everything written after the oldest open snapshot. Our own reads take milliseconds, so
a long read belongs to another program or a stopped process. It is reported by name. Above
``MAX_BYTES`` no new work is accepted or claimed, before the log fills the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.connections.health import Finding, fail, ok, warn
from agentpipe.connections.lock_holders import Holder, holders_of_bytes
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable

MEBIBYTE = 1024**2
# SQLite restarts the log once it is checkpointed and no reader uses it.
LARGE_BYTES, MAX_BYTES = 64 * MEBIBYTE, 1024 * MEBIBYTE
# The size to which the file shrinks on a restart.
KEPT_BYTES = 16 * MEBIBYTE
# The bytes of the shared-memory file that SQLite's readers lock.
FIRST_READER_BYTE, LAST_READER_BYTE = 123, 127
# After DUE_CHANGES changed rows (about as many pages), the log is checkpointed in the background.
# Above LONG_PAGES, the writer that is due runs the checkpoint. At MOST_PAGES, SQLite runs it within
# a commit, and all writers wait.
DUE_CHANGES, LONG_PAGES, MOST_PAGES = 1_000, 2_048, 4_096
# Our own reads end within this time.
LOOK_AGAIN_S = 0.5


class WriteAheadLog:
    """The log of one database, monitored by one process."""

    def __init__(self, database: Path) -> None:
        self.path = Path(f"{database}-wal")
        self._shared = Path(f"{database}-shm")
        self._before: dict[int, Holder] = {}
        self._said_bytes = 0

    def size(self) -> int:
        """Size in bytes; 0 if it does not exist."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def is_full(self) -> bool:
        """Whether the log has reached ``MAX_BYTES``."""
        return self.size() >= MAX_BYTES

    def refuse_if_full(self) -> None:
        """Raise ``Unreachable`` if the log is full, before more is written."""
        if self.is_full:
            raise Unreachable(self._grown(self.readers()))

    def watch(self) -> None:
        """Warn about a large log when it has doubled or is full; call this periodically."""
        size = self.size()
        readers = self.readers() if size >= LARGE_BYTES else {}
        lasting = {pid: readers[pid] for pid in readers.keys() & self._before.keys()}
        self._before = readers
        if size < LARGE_BYTES:
            self._said_bytes = 0
        elif (lasting or size >= MAX_BYTES) and self._is_news(size):
            self._said_bytes = size
            log.warning("%s", self._grown(lasting))

    def _is_news(self, size: int) -> bool:
        return size >= 2 * self._said_bytes or size >= MAX_BYTES > self._said_bytes

    def readers(self) -> dict[int, Holder]:
        """Other processes that are reading now, by pid."""
        found = holders_of_bytes(self._shared, FIRST_READER_BYTE, LAST_READER_BYTE, "READ")
        return {holder.pid: holder for holder in found}

    def examine(self) -> Finding:
        """Check the log's size for ``doctor``."""
        size, name = self.size(), "write-ahead log"
        found = f"{size / MEBIBYTE:.1f} MiB"
        if size < LARGE_BYTES:
            return ok(name, found)
        before = self.readers()
        time.sleep(LOOK_AGAIN_S)
        lasting = [holder for pid, holder in self.readers().items() if pid in before]
        grade = fail if size >= MAX_BYTES else warn
        return grade(name, f"{found}{_who_reads(lasting)}", _ADVICE)

    def _grown(self, readers: dict[int, Holder]) -> str:
        size = f"{self.path} has grown to {self.size() / MEBIBYTE:,.0f} MiB"
        finding = f"{size}{_who_reads(readers.values())}: {_ADVICE}"
        return f"{finding}; until then nothing new is accepted" if self.is_full else finding


class WriteBack:
    """Checkpoints the log in a background thread while others write.

    SQLite restarts the log only if nothing was written during the checkpoint. If the log has grown
    long without a restart, the next writer that is due runs the checkpoint itself, holding no lock
    that other writers need.

    Attributes:
        changes: Rows that this process has changed since its last checkpoint.
    """

    def __init__(self, database: Path) -> None:
        self.changes = 0
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._is_long = False

    def if_due(self) -> None:
        """Checkpoint the log if it is due and no other thread does it.

        After a failure, the next due writer tries again.
        """
        wait = self._is_long
        if self.changes < DUE_CHANGES or not self._lock.acquire(blocking=wait):
            return
        self.changes = 0
        if wait:
            self._write()
            return
        writing = threading.Thread(target=self._write, name="agentpipe-write-back", daemon=True)
        try:
            writing.start()
        except RuntimeError:  # No more threads available.
            self._lock.release()

    def begin_anew(self) -> None:
        """Checkpoint the log at once, so that the next write reuses its space.

        On a full disk it cannot grow: what is in it already would keep writers from removing what
        fills the disk.
        """
        self._lock.acquire()
        self._write()

    def _write(self) -> None:
        try:
            with suppress(sqlite3.Error):
                found = self._own().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._is_long = any(pages >= LONG_PAGES for _, pages, _ in found)
        finally:
            self._lock.release()

    def _own(self) -> sqlite3.Connection:
        """A separate connection: the main one must stay free during a checkpoint."""
        if self._connection is None:
            # ``mode=rw``: if the file was removed, do not create an empty one.
            url = f"{self._database.absolute().as_uri()}?mode=rw"
            self._connection = sqlite3.connect(
                url, uri=True, timeout=0, isolation_level=None, check_same_thread=False
            )
        return self._connection

    def close(self) -> None:
        """Close the connection after any running checkpoint; idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection, self.changes = None, 0


_ADVICE = (
    "end the transaction that reads, or its program (`kill -CONT` if it is stopped), and the file"
    " shrinks by itself"
)

log = logging.getLogger(__name__)


def _who_reads(readers: Iterable[Holder]) -> str:
    who = " and ".join(map(str, readers))
    return f", because {who} keeps an old snapshot open" if who else ""
