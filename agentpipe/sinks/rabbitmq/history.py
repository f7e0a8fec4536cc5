"""StreamHistory: what the stream queue holds, read from anywhere up to the present."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentpipe.connections.amqp.channel import Lost
from agentpipe.connections.amqp.message import Letter
from agentpipe.sinks.rabbitmq.topic import MARK, OFFSET, published_us

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentpipe.connections.amqp.channel import Channel, Delivery
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.amqp.message import Declaration
    from agentpipe.sinks.rabbitmq.topic import Topic

# Delivered ahead of a reader that has its queue for itself; traces can be megabytes each.
AHEAD = 100
ACKED_TOGETHER = 25
BATCH = 500
# Servers' and publishers' clocks differ; it is read from a little earlier and sifted.
CLOCKS_DIFFER_S = 60


class Inbox:
    """Deliveries of one consumer that wait to be taken."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.changed = asyncio.Event()

    def receive(self, delivery: Delivery) -> None:
        """One more."""
        self.waiting.append(delivery)
        self.changed.set()


class StreamHistory:
    """A consumer of the stream queue. What it reads stays there."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self.inbox = Inbox()

    async def open(self, session: Session, offset: Any) -> None:
        """Begin at ``offset``, as the server understands it."""
        self.channel: Channel = await session.channel(self.inbox.changed.set)
        await self.channel.consume(
            self._topic.stream.name, AHEAD, self.inbox.receive, **{OFFSET: offset}
        )

    async def mark(self) -> str:
        """Put a mark where the stream ends now; readers pass over it."""
        name = uuid.uuid4().hex
        letter = Letter(self._topic.stream.name, b"", {MARK: name})
        if await self.channel.publish([letter]) != ["taken"]:
            raise Lost("the server refuses to store in the stream queue")
        return name

    async def up_to_now(self) -> AsyncIterator[Delivery]:
        """All up to the present, the mark of which comes last."""
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
                raise Lost("the stream queue is gone")
            await self.inbox.changed.wait()
        return self.inbox.waiting.popleft()


async def fill(session: Session, topic: Topic, queue: Declaration, since_s: float) -> None:
    """Bind a queue that begins with what was published since then.

    What is published just between the two may be in it twice.
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
    letters: list[Letter] = []
    async for delivery in history.up_to_now():
        if MARK not in delivery.headers and published_us(delivery) >= since_s * 1e6:
            headers = {key: it for key, it in delivery.headers.items() if key != OFFSET}
            letters.append(Letter(queue.name, delivery.body, headers))
        if letters and (len(letters) >= BATCH or MARK in delivery.headers):
            if set(await history.channel.publish(letters)) != {"taken"}:
                raise Lost("the server refuses to store a group's records")
            letters.clear()


def moment(since_s: float) -> Any:
    """An offset for the server that is surely not later."""
    if since_s <= CLOCKS_DIFFER_S:
        return "first"
    return datetime.fromtimestamp(since_s - CLOCKS_DIFFER_S, UTC)
