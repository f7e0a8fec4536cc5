"""Connection: a session with its names and shared channels."""

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
    """A channel for calls that can fail and close it; one user at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channel: Channel | None = None
        self._busy = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Channel]:
        """The channel, reopened if it was closed."""
        async with self._busy:
            if self._channel is None or not self._channel.is_open:
                self._channel = await self._session.channel()
            yield self._channel


@dataclass(frozen=True, slots=True)
class Connection:
    """One open connection, until it is lost.

    Attributes:
        publisher: For offers and messages to workers. Nothing works without this channel or the
            outbox's, so if either closes, it closes the session.
        admin: For locks, and for creating and deleting queues.
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
        """Open the channels, and create what all parts need."""
        publisher = await session.channel(session.close)
        outbox = await session.channel(session.close)
        await outbox.declare(topology.shared("outbox"))
        # Last: if both are new, this flushes the earlier declaration, which then survives a crash.
        await publisher.call("exchange_declare", topology.fleet, "fanout", durable=True)
        spare = SpareChannel(session), SpareChannel(session)
        return cls(session, topology, publisher, outbox, *spare)
