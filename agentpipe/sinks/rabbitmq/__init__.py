"""RabbitSink: the stream as a fanout exchange, with a queue for each who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.amqp.connection import Link, Session
from agentpipe.errors import Unreachable
from agentpipe.fit import fit
from agentpipe.sinks.rabbitmq.history import HistoryReader
from agentpipe.sinks.rabbitmq.reader import QueueReader
from agentpipe.sinks.rabbitmq.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.amqp.channel import Channel
    from agentpipe.sinks.sink import Reader, Record, Start

HEARTBEAT_S = 20
# RabbitMQ 4 takes 16 MiB unless told otherwise, headers included; older ones take more.
MAX_BYTES = 16 * 1024 * 1024 - 64 * 1024
REMEDY = "raise max_message_size of the server"


class RabbitSink:
    """The ``Sink`` over ``amqp://host:port/vhost?topic=...``."""

    def __init__(self, url: str) -> None:
        self._topic = Topic.parse(url)
        self._link = new_link(self._topic)
        self._channel: Channel | None = None
        self._link.run(self._opened)

    def publish(self, records: Sequence[Record]) -> None:
        letters = [self._topic.letter(record, fit(record, MAX_BYTES, REMEDY)) for record in records]

        async def publish(session: Session) -> None:
            channel = await self._opened(session)
            fates = await channel.publish(letters)
            if set(fates) - {"taken"}:
                channel.close()  # Its queues are gone: they are made with the next.
                raise Unreachable(f"{self._topic.server.shown}: not all results were taken")

        self._link.run(publish)

    def follow(self, group: str | None, start: Start) -> Reader:
        if group is None and start != "now":
            return HistoryReader(new_link(self._topic), self._topic, start)
        return QueueReader(new_link(self._topic), self._topic, group, start)

    def close(self) -> None:
        async def nothing() -> None:
            """All is confirmed."""

        self._link.close(nothing)

    async def _opened(self, session: Session) -> Channel:
        """The channel, with the topic's queues made."""
        if self._channel is None or not self._channel.is_open:
            self._channel = await session.channel()
            await self._topic.make(self._channel)
        return self._channel


def new_link(topic: Topic) -> Link:
    """A connection of one's own: what it holds goes back when it ends."""
    parameters = topic.server.parameters(HEARTBEAT_S, topic.name)
    return Link(parameters, topic.server.shown)
