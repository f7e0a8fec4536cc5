"""Wakeup: wakes the thread that waits for claims, and tells it which runs must end."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wakeup:
    """Set on the connection's thread, awaited on one other thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._cancelled: deque[str] = deque()

    def set(self) -> None:
        """Wake the thread: a new claim may be possible."""
        self._event.set()

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Report runs of this worker that must end."""
        self._cancelled.extend(task_ids)
        if self._cancelled:
            self._event.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until anything happens, at most ``timeout_s``."""
        self._event.wait(timeout_s)
        self._event.clear()

    def take_cancelled(self) -> list[str]:
        """The ids reported since the last call."""
        return [self._cancelled.popleft() for _ in range(len(self._cancelled))]
