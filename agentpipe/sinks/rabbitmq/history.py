"""StreamHistory: the stream queue's records, from any offset up to the present."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.message import OutgoingMessage
from agentpipe.sinks.rabbitmq.topic import MARK, OFFSET, published_us

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.amqp.message import Declaration
    from agentpipe.sinks.rabbitmq.topic import Topic

# Prefetch of a reader with its own queue; a trace can be megabytes.
AHEAD = 100
ACKED_TOGETHER = 25
BATCH = 500
# Clocks of servers and publishers differ: reading starts a little earlier, and filters.
CLOCKS_DIFFER_S = 60


class Inbox:
    """Deliveries of one consumer that wait to be read."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.changed = asyncio.Event()

    def receive(self, delivery: Delivery) -> None:
        """Add a delivery and wake the reader."""
        self.waiting.append(delivery)
        self.changed.set()


class StreamHistory:
    """A consumer of the stream queue; reading removes nothing."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self.inbox = Inbox()

    async def open(self, session: Session, offset: Any) -> None:
        """Start at ``offset``, a value of ``x-stream-offset``."""
        self.channel: Channel = await session.channel(self.inbox.changed.set)
        await self.channel.consume(
            self._topic.stream.name, AHEAD, self.inbox.receive, **{OFFSET: offset}
        )

    async def mark(self) -> str:
        """Write a mark at the stream's current end; readers skip it."""
        name = uuid.uuid4().hex
        message = OutgoingMessage(self._topic.stream.name, b"", {MARK: name})
        if await self.channel.publish([message]) != ["taken"]:
            raise ChannelClosed("the server refused a message for the stream queue")
        return name

    async def up_to_now(self) -> AsyncIterator[Delivery]:
        """All deliveries up to now, then the mark."""
        mark = await self.mark()
        while True:
            delivery = await self._next()
            if delivery.tag % ACKED_TOGETHER == 0:
                self.channel.ack(delivery.tag, all_before=True)
            if MARK not in delivery.headers or delivery.headers[MARK] == mark:
                yield delivery
            if delivery.headers.get(MARK) == mark:
                return

    async def _next(self) -> Delivery:
        while not self.inbox.waiting:
            self.inbox.changed.clear()
            if not self.channel.is_open:
                raise ChannelClosed("the stream queue was deleted")
            await self.inbox.changed.wait()
        return self.inbox.waiting.popleft()


async def fill(session: Session, topic: Topic, queue: Declaration, since_s: float) -> None:
    """Declare and bind a queue that starts with the records published since ``since_s``.

    Records published during the binding can be in it twice.
    """
    history = StreamHistory(topic)
    await history.open(session, moment(since_s))
    try:
        await history.channel.declare(queue)
        await _copy(history, queue, since_s)
        await topic.bind(history.channel, queue)
        await _copy(history, queue, since_s)
    finally:
        history.channel.close()


async def _copy(history: StreamHistory, queue: Declaration, since_s: float) -> None:
    messages: list[OutgoingMessage] = []
    async for delivery in history.up_to_now():
        if MARK not in delivery.headers and published_us(delivery) >= since_s * 1e6:
            headers = {key: it for key, it in delivery.headers.items() if key != OFFSET}
            messages.append(OutgoingMessage(queue.name, delivery.body, headers))
        if messages and (len(messages) >= BATCH or MARK in delivery.headers):
            if set(await history.channel.publish(messages)) != {"taken"}:
                raise ChannelClosed("the server refused a group's records")
            messages.clear()


def moment(since_s: float) -> Any:
    """A stream offset that is at or before ``since_s`` despite clock differences."""
    if since_s <= CLOCKS_DIFFER_S:
        return "first"
    return datetime.fromtimestamp(since_s - CLOCKS_DIFFER_S, UTC)
