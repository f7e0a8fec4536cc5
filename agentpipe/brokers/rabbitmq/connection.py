"""Connection: a session with its names and the channels that all share."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session


class SpareChannel:
    """A channel for calls that may fail and take it with them; one user at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channel: Channel | None = None
        self._busy = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Channel]:
        """The channel, opened again where it was closed."""
        async with self._busy:
            if self._channel is None or not self._channel.is_open:
                self._channel = await self._session.channel()
            yield self._channel


@dataclass(frozen=True, slots=True)
class Connection:
    """One life of the connection.

    Attributes:
        publisher: For offers and for what is said to workers. Without this one, or that of the
            outbox, nothing works: it takes the session with it.
        admin: For locks, and queues that are made or deleted.
        counter: For the depths of many queues at once.
    """

    session: Session
    topology: Topology
    publisher: Channel
    outbox: Channel
    admin: SpareChannel
    counter: SpareChannel

    @classmethod
    async def open(cls, session: Session, topology: Topology) -> Self:
        """Open the channels, and make what everything needs."""
        publisher = await session.channel(session.close)
        outbox = await session.channel(session.close)
        await outbox.declare(topology.shared("outbox"))
        # Last: where both are new, what is made before it survives a kill of the server.
        await publisher.call("exchange_declare", topology.fleet, "fanout", durable=True)
        spare = SpareChannel(session), SpareChannel(session)
        return cls(session, topology, publisher, outbox, *spare)
