"""Suspects: tasks with ``max_crashes: 1`` whose worker died while it had other tasks too.

The first crash would be the last, and the end of a connection does not show what ran. So none of
them is blamed, and each runs alone. A durable mark is stored before that run: a task that is
redelivered with a mark has killed its worker; one without a mark was only waiting there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session

# How long marks of ended tasks are kept.
KEPT_MS = 7 * 86_400_000


class Suspects:
    """The marks: when each suspect began to run alone, in Unix ms."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._state = SharedState[int](session, topology.shared("suspects"), max, values_of(int))

    async def mark(self, message: Message) -> None:
        """Mark a task that is about to run alone."""
        await self._state.add({_key(message): now_ms()})

    async def is_marked(self, message: Message) -> bool:
        """Whether the task ran alone; drops old marks."""

        def drop_old(marks: dict[str, int]) -> None:
            oldest = now_ms() - KEPT_MS
            for key in [key for key, since in marks.items() if since < oldest]:
                del marks[key]

        marks, _ = await self._state.change(drop_old)
        # An id can be sent again on this broker.
        return marks.get(_key(message), -1) >= message.submitted_ms


def _key(message: Message) -> str:
    return f"{message.suspect} {message.task_id}"
