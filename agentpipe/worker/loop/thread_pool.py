"""ThreadPool: threads for plain functions, used again so that what is bound to a thread lasts."""

from __future__ import annotations

from agentpipe.core.agent_thread import AgentThread


class ThreadPool:
    """Threads that are idle; from the loop's thread only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[AgentThread] = []

    def take(self) -> AgentThread:
        """The thread that was used last, or a new one."""
        while self._idle:
            thread = self._idle.pop()
            if thread.is_alive:
                return thread
        return AgentThread(self._name)

    def give_back(self, thread: AgentThread) -> None:
        """Keep a thread for the next call; one whose code goes on ends with that."""
        if thread.is_busy:
            thread.close()
        else:
            self._idle.append(thread)

    def close(self) -> None:
        """End the idle threads; more may be taken later."""
        while self._idle:
            self._idle.pop().close()
