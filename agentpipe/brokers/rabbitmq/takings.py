"""Takings: the agents whose tasks an operator's process has taken out of their queues.

If that process dies, the server delivers these tasks again like those of a dead worker. So each
taking is noted before it begins, and a task that is delivered again after an unfinished one counts
no crash without a verdict on it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session

# How long an unfinished taking is remembered.
KEPT_MS = 86_400_000


class Takings:
    """The takings known to one process: when each began, in Unix ms, by its id and agent."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._state = SharedState[int](session, topology.shared("takings"), max, values_of(int))
        self._unfinished: dict[str, int] = {}

    def is_unfinished(self, agent: str) -> bool:
        """Whether another process began to take tasks of this agent, and has not finished."""
        return self._unfinished.get(agent, 0) >= _oldest_ms()

    async def read(self) -> None:
        """Learn the takings of others."""
        self._keep(await self._state.read())

    async def begin(self, agents: Iterable[str]) -> list[str]:
        """Note a taking of tasks of these agents; returns what ``end`` needs."""
        own = [f"{uuid.uuid4().hex} {agent}" for agent in agents]

        def add(known: dict[str, int]) -> None:
            for key in [key for key, began_ms in known.items() if began_ms < _oldest_ms()]:
                del known[key]
            known.update(dict.fromkeys(own, now_ms()))

        known, _ = await self._state.change(add)
        self._keep({key: began_ms for key, began_ms in known.items() if key not in own})
        return own

    async def end(self, own: Iterable[str]) -> None:
        """Note that nothing is taken any more."""

        def remove(known: dict[str, int]) -> None:
            for key in own:
                known.pop(key, None)

        await self._state.change(remove)

    def _keep(self, known: Mapping[str, int]) -> None:
        rising = sorted(known.items(), key=lambda it: it[1])
        self._unfinished = {key.partition(" ")[2]: began_ms for key, began_ms in rising}


def _oldest_ms() -> int:
    """The oldest moment that is remembered."""
    return now_ms() - KEPT_MS
