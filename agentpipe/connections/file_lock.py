"""An advisory file lock with a bounded wait.

The kernel frees the lock when its process ends. A process that is stopped while it holds the lock
keeps it, so every wait has a deadline.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from agentpipe.connections.private_files import keep_from_readers, open_beside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A blocking flock has no timeout, so we poll. A transaction takes a fraction of a millisecond, so
# the first pauses are short.
FIRST_PAUSE_S, PAUSE_GROWTH, MAX_PAUSE_S = 0.00005, 1.3, 0.001
LONG_WAIT_S, LONG_PAUSE_S = 0.25, 0.02


class FileLock:
    """A file lock of one process, which also excludes its threads from each other.

    A forked child closes its copy: otherwise the child would keep the lock after its parent's
    death.
    """

    def __init__(self, path: Path, database: Path) -> None:
        self.path = path
        self.file = open_beside(path, database)
        keep_from_readers(self.file)
        self._threads = threading.Lock()
        _OPEN.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether the lock was closed, or belongs to the parent of this process."""
        return self.file < 0

    def acquire(self, deadline: float) -> bool:
        """Take the lock; False if it is not free before ``deadline`` (monotonic)."""
        if not self._threads.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return False
        try:
            taken = self._take(deadline)
        except BaseException:
            self._threads.release()
            raise
        if not taken:
            self._threads.release()
        return taken

    def _take(self, deadline: float) -> bool:
        for pause_s in pauses():
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(pause_s)
            else:
                return True
        raise AssertionError  # ``pauses`` never ends.

    def release(self) -> None:
        """Release the lock."""
        if self.file >= 0:
            fcntl.flock(self.file, fcntl.LOCK_UN)
        self._threads.release()

    def close(self) -> None:
        """Close the file; idempotent."""
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)

    def close_in_child(self) -> None:
        """Close a fork's copy; the parent keeps its lock."""
        self._threads = threading.Lock()  # A thread that does not exist in the child can hold it.
        self.close()


def pauses() -> Iterator[float]:
    """Pauses between attempts, without end: short ones first."""
    pause_s, waited_s = FIRST_PAUSE_S, 0.0
    while waited_s < LONG_WAIT_S:
        yield pause_s
        waited_s += pause_s
        pause_s = min(pause_s * PAUSE_GROWTH, MAX_PAUSE_S)
    while True:
        yield LONG_PAUSE_S


_OPEN: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for lock in list(_OPEN):
        lock.close_in_child()
    _OPEN.clear()


os.register_at_fork(after_in_child=_close_all_in_child)
