"""Suspects: tasks with ``max_crashes: 1`` that their worker had beside others when it died.

The first crash would be the last, and the end of a connection does not tell what ran. So none of
them is blamed, and each runs alone. Before it does, a durable mark says so: one that is delivered
again with a mark has killed its worker, one without only lay there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session

# Marks of tasks that have ended stay for so long.
KEPT_MS = 7 * 86_400_000


class Suspects:
    """The marks: when each suspect began to run alone, in Unix ms."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._state = SharedState[int](session, topology.shared("suspects"), max, values_of(int))

    async def mark(self, message: Message) -> None:
        """It is about to run alone."""
        await self._state.add({_key(message): now_ms()})

    async def is_marked(self, message: Message) -> bool:
        """Whether it ran alone; drops old marks."""

        def drop_old(marks: dict[str, int]) -> None:
            oldest = now_ms() - KEPT_MS
            for key in [key for key, since in marks.items() if since < oldest]:
                del marks[key]

        marks, _ = await self._state.change(drop_old)
        # An id may be sent again on this broker.
        return marks.get(_key(message), -1) >= message.submitted_ms


def _key(message: Message) -> str:
    return f"{message.suspect} {message.task_id}"
