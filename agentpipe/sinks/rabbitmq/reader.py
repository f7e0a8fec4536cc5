"""Readers of a group's queue, of a reader's own queue, and of the stream queue."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.connection import ANSWER_S
from agentpipe.errors import Unreachable
from agentpipe.sinks.rabbitmq.history import AHEAD, Inbox, StreamHistory, moment
from agentpipe.sinks.rabbitmq.topic import MARK, OFFSET, published_us, record_of

if TYPE_CHECKING:
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Link, Session
    from agentpipe.connections.amqp.message import Declaration
    from agentpipe.sinks.base import Record
    from agentpipe.sinks.rabbitmq.topic import Topic

# Time for ready records to arrive, regardless of the caller's timeout.
ARRIVAL_S = 5.0

log = logging.getLogger(__name__)


class _ChannelReader:
    """A reader with one channel, reopened after a lost connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._session: Session | None = None
        self._channel: Channel | None = None

    def recall(self) -> list[str]:
        return []  # The server does not know which records the group has used.

    def close(self) -> None:
        with suppress(Unreachable):
            self._link.run(self._close)

    async def _close(self, _session: Session) -> None:
        if self._channel is not None:
            self._channel.close()

    def _is_open_on(self, session: Session) -> bool:
        channel = self._channel
        return self._session is session and channel is not None and channel.is_open


class GroupReader(_ChannelReader):
    """Shares a queue with its group: it takes no more than the caller requests.

    Delivery tags are valid only on their channel, so a record's position is the tag and the
    channel's number.
    """

    def __init__(self, link: Link, topic: Topic, queue: Declaration) -> None:
        super().__init__(link)
        self._topic, self._queue = topic, queue
        self._channel_number = self._acked = 0
        self._wanted = 0

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        async def poll(session: Session) -> list[Delivery]:
            return await self._poll(await self._channel_on(session), limit, timeout_s)

        found = self._link.run(poll, timeout_s + ARRIVAL_S + ANSWER_S)
        return [record_of(delivery, (self._channel_number, delivery.tag)) for delivery in found]

    def commit(self, record: Record) -> None:
        number, tag = record.position

        async def commit(_session: Session) -> None:
            current = number == self._channel_number and tag > self._acked
            if self._channel is not None and current:
                self._channel.ack(tag, all_before=True)
                self._acked = tag

        self._link.run(commit)

    async def _channel_on(self, session: Session) -> Channel:
        if self._channel is None or not self._is_open_on(session):
            self._inbox = Inbox()
            channel = await session.channel(self._inbox.changed.set)
            await self._topic.bind_for_good(channel, self._queue)
            self._channel, self._acked = channel, 0
            self._session, self._channel_number = session, self._channel_number + 1
        return self._channel

    async def _poll(self, channel: Channel, limit: int, timeout_s: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout_s
        if await channel.declare(self._queue):
            deadline = max(deadline, time.monotonic() + ARRIVAL_S)
        inbox = self._inbox
        inbox.changed.clear()
        self._wanted = limit
        try:
            receive = partial(self._receive, channel, inbox)
            consumer = await channel.consume(self._queue.name, limit, receive)
            with suppress(TimeoutError):
                await asyncio.wait_for(inbox.changed.wait(), max(0.0, deadline - time.monotonic()))
            await channel.cancel([consumer])
        except BaseException:  # The consumer can still be active.
            channel.close()
            raise
        finally:
            self._wanted = 0
        found = list(inbox.waiting)
        inbox.waiting.clear()
        return found

    def _receive(self, channel: Channel, inbox: Inbox, delivery: Delivery) -> None:
        if len(inbox.waiting) < self._wanted:
            inbox.receive(delivery)
        else:  # Too late for this poll: return it to the group.
            channel.requeue(delivery.tag)


class _OwnReader(_ChannelReader, ABC):
    """A reader with its own queue, so the server can deliver ahead."""

    def __init__(self, link: Link, topic: Topic) -> None:
        super().__init__(link)
        self._topic = topic
        self._inbox: Inbox | None = None
        self._link.run(self._inbox_on)

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        async def poll(session: Session) -> list[Record]:
            return await self._poll(await self._inbox_on(session), limit, timeout_s)

        return self._link.run(poll, timeout_s + ARRIVAL_S + ANSWER_S)

    def commit(self, record: Record) -> None:
        """Nothing to do without a group."""

    async def _inbox_on(self, session: Session) -> Inbox:
        if self._inbox is None or not self._is_open_on(session):
            self._channel, self._inbox = await self._open(session)
            self._session = session
        return self._inbox

    async def _poll(self, inbox: Inbox, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        while True:
            inbox.changed.clear()
            if records := self._take(inbox, limit):
                return records
            if self._channel is None or not self._channel.is_open:
                raise ChannelClosed("the server ended the channel")
            left_s = self._deadline(deadline) - time.monotonic()
            if left_s <= 0:
                return []
            with suppress(TimeoutError):
                await asyncio.wait_for(inbox.changed.wait(), left_s)

    def _take(self, inbox: Inbox, limit: int) -> list[Record]:
        found: list[Record] = []
        tag = 0
        while inbox.waiting and len(found) < limit:
            delivery = inbox.waiting.popleft()
            tag = delivery.tag
            if (record := self._record(delivery)) is not None:
                found.append(record)
        if tag and self._channel is not None:
            self._channel.ack(tag, all_before=True)
        return found

    def _deadline(self, deadline: float) -> float:
        return deadline

    def _record(self, delivery: Delivery) -> Record | None:
        return record_of(delivery, delivery.tag)

    @abstractmethod
    async def _open(self, session: Session) -> tuple[Channel, Inbox]:
        """Open a channel, and the inbox that its records arrive in."""


class TailReader(_OwnReader):
    """Reads new records from a queue that the server drops with its reader."""

    def __init__(self, link: Link, topic: Topic) -> None:
        self._queue = topic.tail()
        self._opened = False
        super().__init__(link, topic)

    async def _open(self, session: Session) -> tuple[Channel, Inbox]:
        if self._opened:
            await self._warn_if_gone(session)
        inbox = Inbox()
        channel = await session.channel(inbox.changed.set)
        await self._topic.bind_for_good(channel, self._queue)
        await channel.consume(self._queue.name, AHEAD, inbox.receive)
        self._opened = True
        return channel, inbox

    async def _warn_if_gone(self, session: Session) -> None:
        channel = await session.channel()
        if await channel.depth(self._queue.name) is None:
            log.warning(
                "the reader was disconnected for too long: results of that time are missing"
            )
        channel.close()

    async def _close(self, session: Session) -> None:
        await (await session.channel()).delete([self._queue.name])
        await super()._close(session)


class StreamReader(_OwnReader):
    """Reads the stream queue from a given time, and removes nothing.

    It first writes a mark. Records before the mark exist already, so it waits for them.
    """

    def __init__(self, link: Link, topic: Topic, since_s: float) -> None:
        self._since_us = since_s * 1e6
        self._from: Any = moment(since_s)
        self._mark = ""
        super().__init__(link, topic)

    async def _open(self, session: Session) -> tuple[Channel, Inbox]:
        history = StreamHistory(self._topic)
        await history.open(session, self._from)
        self._mark = await history.mark()
        return history.channel, history.inbox

    def _deadline(self, deadline: float) -> float:
        return max(deadline, time.monotonic() + ARRIVAL_S) if self._mark else deadline

    def _record(self, delivery: Delivery) -> Record | None:
        offset = delivery.headers[OFFSET]
        self._from = offset + 1
        if delivery.headers.get(MARK) == self._mark:
            self._mark = ""
        if MARK in delivery.headers or published_us(delivery) < self._since_us:
            return None
        return record_of(delivery, offset)
