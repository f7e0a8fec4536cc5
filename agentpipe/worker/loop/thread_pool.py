"""ThreadPool: threads for plain functions, used again so that what is bound to a thread lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.agent_thread import AgentThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class ThreadPool:
    """Threads that are idle; from the loop's thread only.

    Each of them enters ``around`` when it begins, and leaves it when it ends.
    """

    def __init__(self, name: str, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._name, self._around = name, around
        self._idle: list[AgentThread] = []

    def take(self) -> AgentThread:
        """The thread that was used last, or a new one."""
        while self._idle:
            thread = self._idle.pop()
            if thread.is_alive:
                return thread
        return AgentThread(self._name, self._around)

    def give_back(self, thread: AgentThread) -> None:
        """Keep a thread for the next call; one whose code goes on ends with that."""
        if thread.is_busy:
            thread.close()
        else:
            self._idle.append(thread)

    def close(self) -> list[AgentThread]:
        """End the idle threads, which are returned; more may be taken later."""
        closed, self._idle = self._idle, []
        for thread in closed:
            thread.close()
        return closed
