"""Wakes processes that wait for a change, at no cost while nothing changes.

A writer writes a byte to a file; on Linux the kernel then wakes the listeners (inotify). On other
systems a listener polls every few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

IN_MODIFY = 0x2
EVENTS_BYTES = 4096
# Pause between two wake-ups, so that a burst of changes wakes a listener once.
PAUSE_S = 0.002
POLL_EVERY_S = 0.01


class Listener(Protocol):
    """Waits for changes; used by one thread."""

    def wait(self, timeout_s: float) -> bool:
        """True once something may have changed since the last call, False on timeout."""

    def close(self) -> None:
        """Stop; a ``wait`` in another thread runs until its timeout."""


def notify(file: int) -> None:
    """Wake all listeners of an open file."""
    os.pwrite(file, b"\0", 0)


def listen(path: str, make_probe: Callable[[], Callable[[], bool]]) -> Listener:
    """A listener on the file at ``path``, or one that polls a probe where inotify is missing."""
    try:
        return InotifyListener(path)
    except OSError:  # Not Linux, or out of watches.
        return PollingListener(make_probe())


class InotifyListener:
    """Sleeps until the kernel wakes it."""

    def __init__(self, path: str) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("inotify exists on Linux only")
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0 or libc.inotify_add_watch(self._file, os.fsencode(path), IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._woken_at = 0.0

    def wait(self, timeout_s: float) -> bool:
        """Wait for a write to the file."""
        since_s = time.monotonic() - self._woken_at
        if since_s < PAUSE_S:
            time.sleep(PAUSE_S - since_s)
        notified = bool(self._poll.poll(timeout_s * 1000))
        with suppress(OSError):
            os.read(self._file, EVENTS_BYTES)
        self._woken_at = time.monotonic()
        return notified

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            os.close(self._file)
        self._file = -1


class PollingListener:
    """Calls a probe until it reports a change."""

    def __init__(self, changed: Callable[[], bool]) -> None:
        self._changed = changed

    def wait(self, timeout_s: float) -> bool:
        """Poll until the probe reports a change."""
        deadline = time.monotonic() + timeout_s
        while not self._changed():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(POLL_EVERY_S, left_s))
        return True

    def close(self) -> None:
        """Nothing to release."""
