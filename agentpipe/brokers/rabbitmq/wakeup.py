"""Wakeup: wakes the thread that waits for something to claim, and says which runs must end."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wakeup:
    """Set from the connection's thread, awaited in one other."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._cancelled: deque[str] = deque()

    def set(self) -> None:
        """A claim may have become possible."""
        self._event.set()

    def cancel(self, task_ids: Iterable[str]) -> None:
        """These run here and must end."""
        self._cancelled.extend(task_ids)
        if self._cancelled:
            self._event.set()

    def wait(self, timeout_s: float) -> None:
        """Return as soon as anything happens."""
        self._event.wait(timeout_s)
        self._event.clear()

    def take_cancelled(self) -> list[str]:
        """Those since the last call."""
        return [self._cancelled.popleft() for _ in range(len(self._cancelled))]
