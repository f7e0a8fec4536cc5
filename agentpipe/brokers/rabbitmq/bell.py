"""Bell: wakes the thread that waits for something to claim, and tells it what was cancelled."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Bell:
    """Rung from the connection's thread, heard in one other."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._cancelled: deque[str] = deque()

    def ring(self) -> None:
        """Something can perhaps be claimed."""
        self._rung.set()

    def tell(self, task_ids: Iterable[str]) -> None:
        """These run here, and shall end."""
        self._cancelled.extend(task_ids)
        if self._cancelled:
            self._rung.set()

    def wait(self, timeout_s: float) -> None:
        """Return as soon as anything happens."""
        self._rung.wait(timeout_s)
        self._rung.clear()

    def take_cancelled(self) -> list[str]:
        """Those since the last call."""
        return [self._cancelled.popleft() for _ in range(len(self._cancelled))]
