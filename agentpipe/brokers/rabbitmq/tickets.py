"""Tickets: how many first offers of an agent are delayed.

Delayed tasks of all agents share queues, where the server cannot count those of one agent. So each
has a ticket in a queue of its agent, whose length is bounded. The worker that receives the task
removes a ticket; all tickets of an agent are alike.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import delay_ms_of
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.message import OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.rabbitmq.connection import Connection
    from agentpipe.brokers.records import Offer, Queue
    from agentpipe.connections.amqp.confirmations import Fate

# How long after its task was due a ticket expires, if its task was lost with the sender.
KEPT_MS = 86_400_000


class Tickets:
    """The tickets of all agents, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._topology = connection, connection.topology
        self._made: dict[str, dict[int, str]] = defaultdict(dict)

    def of(self, agent: str) -> Iterable[str]:
        """The queues where this connection has put tickets of an agent."""
        return self._made[agent].values()

    async def make(self, queues: Iterable[Queue]) -> None:
        """Create the ticket queues of these agents, once per connection."""
        missing = {queue for queue in queues if queue.max_waiting not in self._made[queue.name]}
        if missing:
            async with self._connection.admin.use() as channel:
                for queue in missing:
                    channel.ensure(self._topology.tickets(queue.name, queue.max_waiting))
                await channel.catch_up()
        for queue in missing:
            self._made[queue.name][queue.max_waiting] = self.name(queue)

    def name(self, queue: Queue) -> str:
        """The name of the agent's ticket queue."""
        return self._topology.tickets(queue.name, queue.max_waiting).name

    async def put(self, placed: Sequence[tuple[Offer, Queue]]) -> list[Fate]:
        """Put a ticket for each offer; ``refused`` if there is no room."""
        return await self._connection.publisher.publish(
            [
                OutgoingMessage(
                    self.name(queue), b"", {}, expires_ms=delay_ms_of(offer.delay_s) + KEPT_MS
                )
                for offer, queue in placed
            ]
        )

    async def take(self, names: Iterable[str]) -> None:
        """Remove one ticket per name from these queues."""
        for name in names:
            with suppress(ChannelClosed):  # The queue was deleted, or the connection ends.
                async with self._connection.admin.use() as channel:
                    if ticket := await channel.get(name):
                        channel.ack(ticket.tag)
