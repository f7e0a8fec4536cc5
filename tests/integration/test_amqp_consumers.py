"""Consumers that start and stop on one channel, on a real server."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.rabbitmq.address import RabbitAddress
from agentpipe.connections.amqp.arrivals import Delivery
from agentpipe.connections.amqp.connection import Link
from agentpipe.connections.amqp.message import Declaration, OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session
    from brokers.server_rabbitmq import RabbitServer

PATIENCE_S = 30.0


async def nothing() -> None:
    """Do nothing before the connection ends."""


@pytest.fixture
def link(rabbitmq_server: RabbitServer) -> Iterator[Link]:
    address = RabbitAddress.parse(rabbitmq_server.url)
    link = Link(address.parameters(60), address.shown, own="?prefix=")
    yield link
    link.close(nothing)


async def queue_on(channel: Channel) -> str:
    name = f"test-{uuid.uuid4().hex}"
    await channel.declare(Declaration(name, {}))
    return name


async def delivered_of(channel: Channel, queue: str, found: asyncio.Queue[Delivery]) -> bytes:
    assert await channel.publish([OutgoingMessage(queue, b"sent", {})]) == ["taken"]
    delivery = await asyncio.wait_for(found.get(), PATIENCE_S)
    channel.ack(delivery.tag)
    return delivery.body


def test_a_queue_is_consumed_again_while_its_cancel_waits_for_the_start_of_another(
    link: Link,
) -> None:
    """Regression: the server closed the connection, because the consumer tag was in use."""

    async def consume(session: Session) -> None:
        channel = await session.channel()
        one, other = await queue_on(channel), await queue_on(channel)
        found = asyncio.Queue[Delivery]()
        first = await channel.consume(one, 1, found.put_nowait)
        await channel.catch_up()
        starting = await channel.consume(other, 1, found.put_nowait)
        cancelling = asyncio.create_task(channel.cancel([starting, first]))
        await asyncio.sleep(0)
        await channel.consume(one, 1, found.put_nowait)
        await cancelling
        assert await delivered_of(channel, one, found) == b"sent"
        await channel.delete([one, other])

    link.run(consume)


def test_consumers_that_have_ended_leave_nothing(link: Link) -> None:
    """Regression: the channel kept every ended consumer for its lifetime."""

    async def consume(session: Session) -> None:
        channel = await session.channel()
        queue = await queue_on(channel)
        for _ in range(3):
            found = asyncio.Queue[Delivery]()
            consumer = await channel.consume(queue, 1, found.put_nowait)
            assert await delivered_of(channel, queue, found) == b"sent"
            await channel.cancel([consumer])
        await channel.delete([queue])
        consumers = channel._consumers  # noqa: SLF001 - no public name shows it
        kept = (consumers._receivers, consumers._starting, consumers._ending)  # noqa: SLF001 - no public name shows it
        assert [dict(each) for each in kept] == [{}, {}, {}]
        assert channel._raw.consumer_tags == []  # noqa: SLF001 - no public name shows it

    link.run(consume)
