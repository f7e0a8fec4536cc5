"""ThreadPool: threads for plain functions, reused so that thread-bound state lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.agent_thread import AgentThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class ThreadPool:
    """Idle threads; used from the loop's thread only.

    Each thread enters ``around`` when it starts and leaves it when it ends.
    """

    def __init__(self, name: str, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._name, self._around = name, around
        self._idle: list[AgentThread] = []

    def take(self) -> AgentThread:
        """Take the most recently used thread, or a new one."""
        while self._idle:
            thread = self._idle.pop()
            if thread.is_alive:
                return thread
        return AgentThread(self._name, self._around)

    def give_back(self, thread: AgentThread) -> None:
        """Keep a thread for the next call; a busy one ends when its code does."""
        if thread.is_busy:
            thread.close()
        else:
            self._idle.append(thread)

    def close(self) -> list[AgentThread]:
        """End and return the idle threads; ``take`` still works afterwards."""
        closed, self._idle = self._idle, []
        for thread in closed:
            thread.close()
        return closed
