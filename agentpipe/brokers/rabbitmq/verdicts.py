"""Verdicts: which tasks are to blame for the end of their worker, and which are not.

The end of a connection does not tell what ran on it. Who watched the worker knows, and says so when
it ends the worker, or as soon as that has died. A task of which nobody speaks counts a crash.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session

# The server gives the tasks of a dead worker back before its watcher has opened a connection.
PATIENCE_S = 2.0
# And a worker that takes them may have to boot.
KEPT_MS = 60_000


def patience_s(lease_s: float) -> float:
    """For how long a worker with that lease waits for a verdict: well within the lease."""
    return min(PATIENCE_S, lease_s / 4)


class Verdicts:
    """What one process knows of them: when each was said, in Unix ms; negative for blame."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._state = SharedState[int](session, topology.shared("verdicts"), _later, values_of(int))
        self._said: dict[str, int] = {}
        self._heard = asyncio.Event()

    async def add(self, spared: Iterable[str], blamed: Iterable[str]) -> dict[str, int]:
        """Keep a verdict on each of these tasks; returns what the others have to note."""
        said = dict.fromkeys(spared, now_ms()) | dict.fromkeys(blamed, -now_ms())
        self.note(said)
        await self._state.add(said)
        return said

    def note(self, said: Mapping[str, int]) -> None:
        """Learn of verdicts, and forget old ones."""
        self._said = {task_id: at for task_id, at in self._said.items() if _counts(at)}
        for task_id, at in said.items():
            self._said[task_id] = _later(self._said.get(task_id, 0), at)
        self._heard.set()
        self._heard = asyncio.Event()

    async def read(self) -> None:
        """Learn of all that are kept, and drop old ones."""

        def drop_old(said: dict[str, int]) -> None:
            for task_id in [task_id for task_id, at in said.items() if not _counts(at)]:
                del said[task_id]

        self.note((await self._state.change(drop_old))[0])

    async def on(self, message: Message, patience_s: float) -> int:
        """When a new verdict on this task was said, in Unix ms, negative for blame.

        Where nobody speaks for so long, it is to blame as of now. What was said of it when an
        earlier worker had it is known to all, and no verdict on what it did to this one.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self._is_new(message):
                    await self._heard.wait()
        return self._said.pop(message.task_id) if self._is_new(message) else -now_ms()

    def _is_new(self, message: Message) -> bool:
        said = self._said.get(message.task_id, 0)
        return _counts(said) and abs(said) > message.judged_ms


def _later(one: int, other: int) -> int:
    return max(one, other, key=abs)


def _counts(said_ms: int) -> bool:
    return abs(said_ms) >= now_ms() - KEPT_MS
