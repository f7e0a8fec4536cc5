"""Resumption: takes what ran on a lost connection from the queues of its agents again."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.connections.amqp.message import Declaration

LOOK_EVERY_S = 0.02
# Tasks to take in one round trip, per agent.
AT_ONCE = 256
# How many tasks of an agent, and about how many bytes of them, may lie before a run.
SEARCHED, SEARCHED_BYTES = 4_096, 64 * 1024 * 1024


class Resumption:
    """Searches one worker's queues for awaited runs; passes each delivery to ``receive``.

    A consumer might not get them: its prefetch can be full of others, such as more urgent tasks,
    and runs that have ended and are not settled yet. An agent that is paused, in a cooldown or
    leaving has no consumer.
    """

    def __init__(
        self, channel: WorkerChannel, deliveries: Deliveries, receive: Callable[..., None]
    ) -> None:
        self._channel, self._deliveries, self._receive = channel, deliveries, receive

    async def search(self, agents: Iterable[ServedAgent]) -> None:
        """Take the awaited runs of these agents, and what lies before them."""
        awaiting = [it for it in agents if self._deliveries.awaited.of(it.queue.name)]
        if awaiting:
            await self._channel.raw.catch_up()  # Most of them are delivered to the consumers.
        await asyncio.gather(*(self._search(it) for it in awaiting))

    async def finished(self, patience_s: float) -> None:
        """Wait until no run is awaited, for at most ``patience_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._deliveries.awaited:  # noqa: ASYNC110 - rare, and brief
                    await asyncio.sleep(LOOK_EVERY_S)

    async def _search(self, agent: ServedAgent) -> None:
        back, *waiting = self._channel.services.registry.sources(agent.queue)
        agent.is_searched = True
        try:
            await self._take(agent, back, returned=True)
            for source in waiting:
                await self._take(agent, source, returned=False)
            agent.searched_at = agent.searched_at or time.monotonic()
        finally:
            agent.is_searched = False

    async def _take(self, agent: ServedAgent, source: Declaration, *, returned: bool) -> None:
        """Take tasks until none is awaited, or none is left; a few at first, then ever more."""
        self._channel.raw.ensure(source)
        asked = found = 0
        while found == asked and self._searches(agent):
            awaited = self._deliveries.awaited.of(agent.queue.name)
            asked = min(AT_ONCE, max(2 * asked, awaited))
            deliveries = await self._channel.raw.get_many(source.name, asked)
            found = len(deliveries)
            for delivery in deliveries:
                self._receive(agent, delivery, returned=returned)

    def _searches(self, agent: ServedAgent) -> bool:
        """Whether a run is awaited, and the tasks taken for it leave space for more."""
        size = sum(len(it.message.payload) for it in agent.ready)
        has_space = len(agent.ready) < SEARCHED and size < SEARCHED_BYTES
        return has_space and self._deliveries.awaited.of(agent.queue.name) > 0
