"""StartGate: limits how many MCP servers start at once in this process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class StartGate:
    """Lets as many servers start at once as there are cores: more would slow each other down.

    Runs of all event loops share one queue. A server started in advance waits until no run is
    waiting.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lock = threading.Lock()
        self._runs: deque[Future[None]] = deque()
        self._ahead: deque[Future[None]] = deque()

    @asynccontextmanager
    async def turn(self, *, ahead: bool = False) -> AsyncIterator[None]:
        """Wait for a turn, and hold it during the block."""
        await self._wait(self._ahead if ahead else self._runs)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, line: deque[Future[None]]) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: Future[None] = Future()
            line.append(turn)
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancel() and not turn.cancelled():  # The turn was granted meanwhile.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        with self._lock:
            for line in (self._runs, self._ahead):
                while line:
                    turn = line.popleft()
                    if turn.set_running_or_notify_cancel():
                        turn.set_result(None)
                        return
            self._free += 1


CORES = os.cpu_count() or 1
START_GATE = StartGate(CORES)
