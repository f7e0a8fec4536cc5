"""An advisory lock of a file, for which nothing waits longer than it says.

The kernel frees the lock of a process that ends, and of no other: a process that is stopped while
it holds the lock keeps it. So each wait has an end.
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

# A wait in the kernel would have no end. A transaction takes a fraction of a millisecond, so the
# first looks are close together.
FIRST_PAUSE_S, PAUSE_GROWTH, MAX_PAUSE_S = 0.00005, 1.3, 0.001
LONG_WAIT_S, LONG_PAUSE_S = 0.25, 0.02


class FileLock:
    """One lock of one process; its threads exclude each other, too.

    A forked child closes its copy: the lock would live on in the child, after its parent's death.
    """

    def __init__(self, path: Path, database: Path) -> None:
        self.path = path
        self.file = open_beside(path, database)
        keep_from_readers(self.file)
        self._threads = threading.Lock()
        _OPEN.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or belongs to the parent of this process."""
        return self.file < 0

    def acquire(self, deadline: float) -> bool:
        """Take the lock; False if that is not possible before ``deadline`` (monotonic)."""
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
        raise AssertionError  # There is always another pause.

    def release(self) -> None:
        """Give it back."""
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
        self._threads = threading.Lock()  # It may be held by a thread that the child has not.
        self.close()


def pauses() -> Iterator[float]:
    """Pauses between looks, without end: short ones first."""
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
