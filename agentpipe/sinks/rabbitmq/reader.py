"""QueueReader: reads the queue of a group, or one that lives as long as its reader.

Records are taken one by one as they are asked for, so that readers of a group share them and
none holds more than it has polled. What is not acknowledged goes back with the connection.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from agentpipe.amqp.letter import Letter
from agentpipe.sinks.rabbitmq.history import History
from agentpipe.sinks.rabbitmq.topic import ID_HEADER, id_of
from agentpipe.sinks.sink import Record

if TYPE_CHECKING:
    from agentpipe.amqp.channel import Channel, Delivery
    from agentpipe.amqp.connection import Link, Session
    from agentpipe.amqp.letter import Declaration
    from agentpipe.sinks.rabbitmq.topic import Topic
    from agentpipe.sinks.sink import Start

# The server answers for as long as a poll takes, and then some.
ANSWER_S = 20.0
COPY_BATCH = 500
COPY_S = 3_600.0


class QueueReader:
    """The ``Reader`` of a queue."""

    def __init__(self, link: Link, topic: Topic, group: str | None, start: Start) -> None:
        self._link, self._topic, self._group, self._start = link, topic, group, start
        self._queue = ""
        self._channel: Channel | None = None
        # Tells what was delivered on the present channel from all else: tags begin anew on each.
        self._life = ""
        self._acknowledged = 0
        try:
            link.run(self._opened, COPY_S)
        except BaseException:
            self.close()
            raise

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s

        async def poll(session: Session) -> list[Record]:
            channel = await self._opened(session)
            found = await self._take(channel, limit)
            left_s = deadline - time.monotonic()
            if found or left_s <= 0:
                return found
            first = await _first(channel, self._queue, left_s)
            return [self._record(first)] if first else []

        return self._link.run(poll, timeout_s + ANSWER_S)

    def commit(self, record: Record) -> None:
        async def commit(session: Session) -> None:
            channel = await self._opened(session)
            life, tag = record.position
            # What another connection delivered has gone back with it, and comes again.
            if life == self._life and tag > self._acknowledged:
                self._acknowledged = tag
                channel.ack(tag, multiple=True)
                await channel.catch_up()

        self._link.run(commit)

    def recall(self) -> list[str]:
        return []  # A queue keeps nothing that was acknowledged, nor who read what of a stream.

    def close(self) -> None:
        async def give_back() -> None:
            if self._channel is not None:
                self._channel.close()

        self._link.close(give_back)

    async def _opened(self, session: Session) -> Channel:
        if self._channel is None or not self._channel.is_open:
            channel = await session.channel()
            await self._topic.make(channel)
            if self._group is None:
                answer = await channel.call("queue_declare", "", exclusive=True)
                self._queue = str(answer.queue)
                await channel.call("queue_bind", self._queue, self._topic.name)
            else:
                queue = self._topic.of_group(self._group)
                self._queue = queue.name
                await self._make_group(session, channel, queue)
            self._channel, self._life, self._acknowledged = channel, uuid.uuid4().hex, 0
        return self._channel

    async def _make_group(self, session: Session, channel: Channel, queue: Declaration) -> None:
        """Its queue, with the past in it where the group begins there."""
        filling = f"{queue.name}.filling"
        probe = await session.channel()
        is_new = await probe.depth(queue.name) is None
        if not is_new and await (await session.channel()).depth(filling) is None:
            return
        if self._start != "now":
            if not self._topic.keeps:
                raise self._topic.no_past(f"the new group {self._group!r}")
            # For whoever goes on with it, should we die in the middle.
            await channel.call("queue_declare", filling, durable=True)
        await self._topic.bind(channel, queue)
        if self._start != "now":
            await self._fill(session, channel, queue.name)
            await channel.delete([filling])

    async def _fill(self, session: Session, channel: Channel, queue: str) -> None:
        """Copy what the stream holds; what came since the binding is there already."""
        history = History(self._topic, self._start)
        await history.open(await session.channel())
        while not history.is_read:
            found = await history.take(COPY_BATCH, ANSWER_S)
            await channel.publish(
                [Letter(queue, each.body, {ID_HEADER: id_of(each)}) for each in found]
            )

    async def _take(self, channel: Channel, limit: int) -> list[Record]:
        found: list[Record] = []
        while len(found) < limit and (delivery := await channel.get(self._queue)):
            found.append(self._record(delivery))
        return found

    def _record(self, delivery: Delivery) -> Record:
        return Record(id_of(delivery), delivery.body, (self._life, delivery.tag))


async def _first(channel: Channel, queue: str, timeout_s: float) -> Delivery | None:
    """The next message of an empty queue: the server pushes one, and no second."""
    arrived: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
    consumer = await channel.consume(queue, 1, arrived.set_result)
    done, _ = await asyncio.wait([arrived], timeout=timeout_s)
    await channel.cancel([consumer])
    return arrived.result() if done or arrived.done() else None
