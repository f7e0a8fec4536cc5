"""Topic: names and declarations of the sink's exchange and queues, and their messages."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from agentpipe.connections.amqp.message import CONSUMER_TIMEOUT_MS, Declaration, OutgoingMessage
from agentpipe.connections.environment import PEER_GROUP, TOPIC
from agentpipe.errors import ConfigError
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import truncate

if TYPE_CHECKING:
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.url import Url

PARAMETERS = ("topic", "stream")
# From 4.0 on, the server by default closes the channel on larger messages.
REMEDY = "use another sink: RabbitMQ 4 takes 16 MiB at most by default"
MAX_BYTES = 16 * 1024 * 1024 - 64 * 1024
# The limit is 255 bytes; queue names add a word and an id to the topic.
MAX_NAME_BYTES = 120
# How long a reader without a group can be disconnected before its queue is dropped.
TAIL_EXPIRES_MS = 30 * 60_000
ID, PUBLISHED, MARK, OFFSET = (
    "agentpipe-id",
    "agentpipe-published-us",
    "agentpipe-mark",
    "x-stream-offset",
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A fanout exchange and the queues bound to it.

    Attributes:
        name: The name of the exchange, and of the queue that other consumers know.
        has_stream: Whether there is also a stream queue, which keeps records after they are read.
    """

    name: str
    has_stream: bool

    @classmethod
    def of(cls, url: Url) -> Self:
        """The topic in a URL.

        Raises:
            ConfigError: The server does not accept the name.
        """
        name = url.given.get("topic", TOPIC)
        if len(name.encode()) > MAX_NAME_BYTES or name.startswith("amq."):
            raise url.wrong(
                f"topic must have at most {MAX_NAME_BYTES} bytes and not begin with amq."
            )
        return cls(name, url.one_of("stream", ("no", "yes")) == "yes")

    @property
    def queue(self) -> Declaration:
        """The topic's queue, without arguments, to match other consumers' plain declarations."""
        return Declaration(self.name, {})

    @property
    def stream(self) -> Declaration:
        """All results, readable from any offset by any number of readers."""
        return Declaration(f"{self.name}.stream", {"x-queue-type": "stream"})

    def group(self, name: str) -> Declaration:
        """A group's queue; for MCP-Universe's group and the topic's namesake, the topic's queue."""
        if name in (self.name, PEER_GROUP):
            return self.queue
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise ConfigError(f"invalid group {name[:40]!r}: use 1 to {MAX_NAME_BYTES} bytes")
        return Declaration(f"{self.name}.group.{name}", {"x-consumer-timeout": CONSUMER_TIMEOUT_MS})

    def tail(self) -> Declaration:
        """A queue for one reader; it survives a lost connection, and expires without a reader."""
        return Declaration(f"{self.name}.tail.{uuid.uuid4().hex}", {"x-expires": TAIL_EXPIRES_MS})

    def message(self, record: Record) -> OutgoingMessage:
        """The message that carries a record to all queues."""
        headers = {ID: record.task_id, PUBLISHED: time.time_ns() // 1000}
        return OutgoingMessage(
            self.name, truncate(record, MAX_BYTES, REMEDY), headers, exchange=self.name
        )

    async def declare(self, channel: Channel) -> None:
        """Declare exchange and queues, which keep results published before the first reader."""
        await channel.call("exchange_declare", self.name, "fanout", durable=True)
        for queue in (self.queue, self.stream) if self.has_stream else (self.queue,):
            await self.bind(channel, queue)

    async def bind(self, channel: Channel, queue: Declaration) -> None:
        """Declare a queue and bind it to the exchange."""
        await channel.declare(queue)
        await channel.call("queue_bind", queue.name, self.name)

    async def bind_for_good(self, channel: Channel, queue: Declaration) -> None:
        """Bind a queue so that it survives a server crash immediately afterwards."""
        await self.bind(channel, queue)
        await channel.keep_made(f"{queue.name}.made")


def record_of(delivery: Delivery, position: Any) -> Record:
    """The delivered record; foreign messages have no id."""
    return Record(str(delivery.headers.get(ID, "")), delivery.body, position)


def published_us(delivery: Delivery) -> int:
    """The publication time by the publisher's clock, in microseconds; 0 if unknown."""
    value = delivery.headers.get(PUBLISHED)
    return value if isinstance(value, int) else 0
