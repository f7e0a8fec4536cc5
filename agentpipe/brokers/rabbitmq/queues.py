"""Queues: creates the queues of agents, and counts their ready messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.topology import make_delays

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from agentpipe.brokers.rabbitmq.connection import Connection
    from agentpipe.brokers.rabbitmq.registry import Registry
    from agentpipe.brokers.rabbitmq.tickets import Tickets
    from agentpipe.brokers.records import Queue

# The number of queue depths to request at once.
AT_ONCE = 250
# The number to request at once if queues can be missing; each missing one costs a channel.
PROBED_AT_ONCE = 32


class Queues:
    """The server's queues, over one connection."""

    def __init__(self, connection: Connection, registry: Registry, tickets: Tickets) -> None:
        self._connection, self._registry, self._tickets = connection, registry, tickets
        self._made: set[str] = set()
        self._delays_made = False
        self._making_delays = asyncio.Lock()

    async def make(self, queues: Collection[Queue]) -> None:
        """Create the queues of agents."""
        async with self._connection.admin.use() as channel:
            for queue in queues:
                for source in self._registry.sources(queue):
                    channel.ensure(source)
            await channel.keep_made(self._connection.topology.made)
        self._made.update(queue.name for queue in queues)

    def is_made(self, queue: Queue) -> bool:
        """Whether this connection has created the agent's queues."""
        return queue.name in self._made

    async def make_delays(self) -> None:
        """Create the delay queues, once per connection."""
        async with self._making_delays:
            if not self._delays_made:
                async with self._connection.admin.use() as channel:
                    await make_delays(channel, self._connection.topology)
            self._delays_made = True

    async def depth(self, name: str) -> int:
        """The number of ready messages; 0 if the queue is missing."""
        async with self._connection.admin.use() as channel:
            return await channel.depth(name) or 0

    async def depths(self, names: Sequence[str]) -> dict[str, int]:
        """The ready messages of many queues; omits queues that do not exist."""
        counts: dict[str, int] = {}
        left = list(names)
        while left:
            asked = left[:AT_ONCE]
            async with self._connection.counter.use() as channel:
                found = await channel.depths(asked)
            counts.update(zip(asked, found, strict=False))
            left = left[len(found) :]
            if len(found) < len(asked):  # Requests after a missing queue failed.
                left = await self._probe(left, counts)
        return counts

    async def _probe(self, names: Sequence[str], counts: dict[str, int]) -> list[str]:
        """Count each queue on its own channel until none is missing; returns the rest."""
        for first in range(0, len(names), PROBED_AT_ONCE):
            asked = names[first : first + PROBED_AT_ONCE]
            found = await asyncio.gather(*map(self._probe_one, asked))
            counts.update((name, n) for name, n in zip(asked, found, strict=True) if n is not None)
            if None not in found:
                return list(names[first + len(asked) :])
        return []

    async def _probe_one(self, name: str) -> int | None:
        channel = await self._connection.session.channel()
        try:
            return await channel.depth(name)
        finally:
            channel.close()

    async def waiting(self, queues: Iterable[Queue]) -> dict[str, int]:
        """The number of tasks in each agent's queues.

        A missing queue costs a channel. An agent's queue for returned tasks is created before its
        other queues: if it is missing, the others are not requested.
        """
        sources = {it.name: [each.name for each in self._registry.sources(it)] for it in queues}
        counts = await self.depths([names[0] for names in sources.values()])
        made = [names[1:] for names in sources.values() if names[0] in counts]
        counts |= await self.depths([name for names in made for name in names])
        return {name: sum(counts.get(it, 0) for it in names) for name, names in sources.items()}

    async def taken(self, queues: Iterable[Queue]) -> dict[str, int]:
        """The number of first offers that wait, under any bound, or are known to be delayed."""
        places: dict[str, list[str]] = {}
        for queue in queues:
            _, *waiting = self._registry.sources(queue)
            places[queue.name] = [*(it.name for it in waiting), *self._tickets.of(queue.name)]
        counts = await self.depths([name for names in places.values() for name in names])
        return {agent: sum(counts.get(it, 0) for it in names) for agent, names in places.items()}

    async def delayed(self) -> int:
        """The number of delayed tasks of all agents."""
        names = [later.name for later in self._connection.topology.delays()]
        async with self._connection.admin.use() as channel:
            if await channel.depth(names[0]) is None:
                return 0  # All are created together, in this order.
        return sum((await self.depths(names)).values())
