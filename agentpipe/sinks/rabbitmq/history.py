"""HistoryReader: reads a stream queue from any place, as often as one likes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentpipe.amqp.letter import Letter
from agentpipe.sinks.rabbitmq.topic import AT_HEADER, id_of
from agentpipe.sinks.sink import Record

if TYPE_CHECKING:
    from agentpipe.amqp.channel import Channel, Delivery
    from agentpipe.amqp.connection import Link, Session
    from agentpipe.sinks.rabbitmq.topic import Topic
    from agentpipe.sinks.sink import Start

PREFETCH = 500
ANSWER_S = 20.0
# For so long what is known to be there is waited for.
ARRIVE_S = 30.0
OFFSET_HEADER = "x-stream-offset"
# Lies in the stream alone: whoever put it there has read all that was there before.
MARK_HEADER = "agentpipe-mark"


class History:
    """A stream queue as it is read on one channel, from ``start`` or behind ``offset``.

    Attributes:
        offset: Of the last delivery that was taken; None before the first.
        is_read: Whether all that was there at the beginning has been taken.
    """

    def __init__(self, topic: Topic, start: Start, offset: int | None = None) -> None:
        self._topic, self._start, self.offset = topic, start, offset
        self._mark = uuid.uuid4().hex
        self._arrived: deque[Delivery] = deque()
        self._rung = asyncio.Event()
        self.is_read = False

    async def open(self, channel: Channel) -> None:
        """Begin."""
        self._channel = channel
        stream = self._topic.stream.name
        await channel.publish([Letter(stream, b"", {MARK_HEADER: self._mark})])
        await channel.consume(stream, PREFETCH, self._receive, **{OFFSET_HEADER: self._from()})

    async def take(self, limit: int, timeout_s: float) -> list[Delivery]:
        """The next records, waiting up to ``timeout_s`` for the first.

        Returns early, perhaps with none, when all that was there at the beginning has been taken.
        """
        found: list[Delivery] = []
        deadline = time.monotonic() + timeout_s
        while not found and (self._arrived or await self._hear(deadline)):
            while self._arrived and len(found) < limit:
                delivery = self._arrived.popleft()
                self._channel.ack(delivery.tag)  # That is how a stream is asked for more.
                self.offset = int(delivery.headers.get(OFFSET_HEADER, 0))
                if delivery.headers.get(MARK_HEADER) == self._mark:
                    self.is_read = True
                    return found
                if MARK_HEADER not in delivery.headers and self._is_wanted(delivery):
                    found.append(delivery)
        return found

    def _from(self) -> Any:
        if self.offset is not None:
            return self.offset + 1
        if self._start == "beginning":
            return "first"
        assert not isinstance(self._start, str)
        return datetime.fromtimestamp(self._start, UTC)

    def _is_wanted(self, delivery: Delivery) -> bool:
        """The server begins with a block of records, some of which may be older."""
        at = delivery.headers.get(AT_HEADER)
        if isinstance(self._start, str) or not isinstance(at, int):
            return True
        return at >= self._start * 1000

    def _receive(self, delivery: Delivery) -> None:
        self._arrived.append(delivery)
        self._rung.set()

    async def _hear(self, deadline: float) -> bool:
        self._rung.clear()
        try:
            await asyncio.wait_for(self._rung.wait(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return False
        return True


class HistoryReader:
    """The ``Reader`` without a group, of what is past."""

    def __init__(self, link: Link, topic: Topic, start: Start) -> None:
        self._link, self._topic, self._start = link, topic, start
        self._channel: Channel | None = None
        self._history: History | None = None
        if not topic.keeps:
            raise topic.no_past("a new reader")
        try:
            link.run(self._opened)
        except BaseException:
            self.close()
            raise

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        async def poll(session: Session) -> list[Record]:
            history = await self._opened(session)
            deadline = time.monotonic() + timeout_s
            found = [] if history.is_read else await history.take(limit, ARRIVE_S)
            if not found:
                found = await history.take(limit, deadline - time.monotonic())
            return [Record(id_of(each), each.body, history.offset) for each in found]

        return self._link.run(poll, timeout_s + ARRIVE_S + ANSWER_S)

    def commit(self, record: Record) -> None:
        """Nothing to do: it has no group."""

    def recall(self) -> list[str]:
        return []  # It has no past.

    def close(self) -> None:
        async def give_back() -> None:
            if self._channel is not None:
                self._channel.close()

        self._link.close(give_back)

    async def _opened(self, session: Session) -> History:
        if self._history is None or self._channel is None or not self._channel.is_open:
            channel = await session.channel()
            await self._topic.make(channel)
            offset = self._history.offset if self._history else None
            history = History(self._topic, self._start, offset)
            await history.open(channel)
            self._channel, self._history = channel, history
        return self._history
