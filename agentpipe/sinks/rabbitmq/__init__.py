"""RabbitSink: the stream as a topic of RabbitMQ.

Results go to a fanout exchange. The durable queue of the same name collects them for any RabbitMQ
consumer. Each group has its own queue, and so does each reader without a group. A queue forgets
what was read: only ``?stream=yes`` adds a stream queue that can be read from the beginning.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.connections.amqp import health
from agentpipe.connections.amqp.address import server_of
from agentpipe.connections.amqp.channel import LOCKED, NOT_FOUND, TOO_LARGE, ChannelClosed
from agentpipe.connections.amqp.connection import Link, Session
from agentpipe.connections.url import Url
from agentpipe.errors import ConfigError, RecordsRefused
from agentpipe.sinks.base import check_group
from agentpipe.sinks.rabbitmq.history import fill
from agentpipe.sinks.rabbitmq.reader import GroupReader, StreamReader, TailReader
from agentpipe.sinks.rabbitmq.topic import PARAMETERS, Topic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.connections.amqp.address import Server
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.message import Declaration, OutgoingMessage
    from agentpipe.connections.health import Finding
    from agentpipe.connections.scratch import Scratch
    from agentpipe.sinks.base import Reader, Record, Start

HEARTBEAT_S = 30
PUBLISH_S = 60.0
# Copying a long history into a new group's queue takes time.
FOLLOW_S = 3600.0
LOCKED_PAUSE_S = 0.1
_LIMIT = re.compile(rf"{TOO_LARGE} (\d{{1,20}})")


class RabbitSink:
    """The ``Sink`` over ``amqp://`` and ``amqps://``.

    Raises:
        ConfigError: The URL is wrong.
        Unreachable: The server does not answer, or refuses the user or vhost.
    """

    def __init__(self, url: str) -> None:
        self._topic, server = _parts_of(url)
        self._shown = server.shown
        parameters = server.parameters(HEARTBEAT_S, self._topic.name)
        self._link = Link(parameters, self._shown, own="?topic=")
        self._publisher: tuple[Session, Channel] | None = None
        self._following = threading.Lock()
        self._link.run(_nothing)

    @staticmethod
    def check(url: str) -> None:
        """See ``ChecksUrl``."""
        _parts_of(url)

    @classmethod
    def scratch(cls, url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.sinks.rabbitmq.scratch import scratch_of

        return scratch_of(url, name, lambda own: cls(own).remove_all())

    def remove_all(self) -> None:
        """Delete the topic and close."""
        from agentpipe.sinks.rabbitmq.scratch import remove_all

        self._link.run(lambda session: remove_all(session, self._topic))
        self.close()

    def examine(self) -> list[Finding]:
        """Check the server."""
        return self._link.run(health.examine_sink)

    def publish(self, records: Sequence[Record]) -> None:
        messages = [self._topic.message(record) for record in records]
        self._link.run(lambda session: self._publish(session, messages), PUBLISH_S)

    async def _publish(self, session: Session, messages: Sequence[OutgoingMessage]) -> None:
        channel = await self._publisher_on(session)
        with self._refusals_told():
            fates = await channel.publish(messages)
        lost = [message for message, fate in zip(messages, fates, strict=True) if fate != "taken"]
        if lost:  # The queues were deleted.
            await self._topic.declare(channel)
            if set(await channel.publish(lost)) != {"taken"}:
                raise ChannelClosed("the server refused results")

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        """Report a message that is too large: the server closes the channel and takes nothing."""
        try:
            yield
        except ChannelClosed as error:
            if TOO_LARGE not in str(error):
                raise
            raise RecordsRefused(
                f"{self._shown}: {error}",
                too_large=True,
                max_bytes=_limit_in(str(error)),
                remedy="raise max_message_size of the server",
            ) from error

    async def _publisher_on(self, session: Session) -> Channel:
        if self._publisher is not None:
            known, channel = self._publisher
            if known is session and channel.is_open:
                return channel
        channel = await session.channel()
        await self._topic.declare(channel)
        self._publisher = session, channel
        return channel

    def follow(self, group: str | None, start: Start) -> Reader:
        """Open a reader.

        Raises:
            ConfigError: The start lies in the past, and there is no stream queue; or the group's
                name is empty.
        """
        check_group(group)
        if group is not None:
            queue = self._topic.group(group)
            with self._following:
                self._link.run(lambda session: self._prepare_group(session, queue, start), FOLLOW_S)
            return GroupReader(self._link, self._topic, queue)
        self._link.run(lambda session: self._prepare(session, start))
        if start == "now" or not self._topic.has_stream:
            return TailReader(self._link, self._topic)
        return StreamReader(self._link, self._topic, _since_s(start))

    async def _prepare(self, session: Session, start: Start) -> None:
        """Declare exchange and queues; refuse a start that lies before what they keep."""
        forgets = start != "now" and not self._topic.has_stream
        if forgets and await self._exists(session, self._topic.name):
            raise ConfigError(
                f"{self._shown}: a queue cannot be read from the beginning or a past moment. "
                "Add &stream=yes to the sink's URL, on the workers too, before results come; or "
                f"read what waits in the queue with the group {self._topic.name!r}"
            )
        channel = await session.channel()
        await self._topic.declare(channel)
        channel.close()

    async def _prepare_group(self, session: Session, queue: Declaration, start: Start) -> None:
        """Declare the group's queue and fill a new one, under a lock."""
        if queue.name == self._topic.name:
            return await self._prepare(session, "now")
        if await self._is_complete(session, queue):
            return None
        await self._prepare(session, start)
        channel = await self._locked(session, f"{queue.name}.lock")
        if not await self._is_complete(session, queue):
            if start == "now" or not self._topic.has_stream:
                await self._topic.bind(channel, queue)
            else:
                await fill(session, self._topic, queue, _since_s(start))
            # An exchange of the queue's name marks it as completely filled.
            await channel.call("exchange_declare", queue.name, "fanout", durable=True)
        await channel.delete([f"{queue.name}.lock"])
        channel.close()
        return None

    async def _is_complete(self, session: Session, queue: Declaration) -> bool:
        if not await self._exists(session, queue.name):
            return False
        channel = await session.channel()
        exists = await channel.depth(queue.name) is not None
        channel.close()
        return exists

    async def _exists(self, session: Session, exchange: str) -> bool:
        channel = await session.channel()
        try:
            await channel.call("exchange_declare", exchange, passive=True)
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return False
            raise
        channel.close()
        return True

    async def _locked(self, session: Session, name: str) -> Channel:
        while True:
            channel = await session.channel()
            try:
                await channel.call("queue_declare", name, exclusive=True)
            except ChannelClosed as error:
                if error.code != LOCKED:
                    raise
                await asyncio.sleep(LOCKED_PAUSE_S)
            else:
                return channel

    def close(self) -> None:
        self._link.close(_farewell)


def _parts_of(url: str) -> tuple[Topic, Server]:
    parsed = Url.parse(url, PARAMETERS)
    return Topic.of(parsed), server_of(parsed)


def _limit_in(text: str) -> int:
    """Parse the limit from "message size X is larger than configured max size Y"."""
    found = _LIMIT.search(text)
    return int(found[1]) if found else 0


def _since_s(start: Start) -> float:
    return 0.0 if isinstance(start, str) else start


async def _nothing(_session: Session) -> None:
    """Do nothing, to connect only."""


async def _farewell() -> None:
    """Nothing to clean up."""
