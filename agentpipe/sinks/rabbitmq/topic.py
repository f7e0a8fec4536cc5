"""Topic: what this sink calls its exchange and queues, and the letters in them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from agentpipe.connections.amqp.message import CONSUMER_TIMEOUT_MS, Declaration, Letter
from agentpipe.errors import ConfigError
from agentpipe.settings import SEED_GROUP, TOPIC
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import truncate

if TYPE_CHECKING:
    from agentpipe.connections.amqp.channel import Channel, Delivery
    from agentpipe.connections.url import Url

PARAMETERS = ("topic", "stream")
# The server refuses larger messages by default from 4.0 on, and ends the connection.
REMEDY = "RabbitMQ 4 takes 16 MiB at most by default, and so do we"
MAX_BYTES = 16 * 1024 * 1024 - 64 * 1024
# Names have up to 255 bytes; ours add a word and an id to the topic.
MAX_NAME_BYTES = 120
# A reader without a group may be away for so long; then the server drops what it had not read.
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
        name: The exchange's, and that of the queue that everybody knows.
        has_stream: Whether there is a stream queue as well, which keeps what was read.
    """

    name: str
    has_stream: bool

    @classmethod
    def of(cls, url: Url) -> Self:
        """The topic that a URL names.

        Raises:
            ConfigError: The server would not take the name.
        """
        name = url.given.get("topic", TOPIC)
        if len(name.encode()) > MAX_NAME_BYTES or name.startswith("amq."):
            raise url.wrong(
                f"topic is a name of up to {MAX_NAME_BYTES} bytes that does not begin with amq."
            )
        return cls(name, url.one_of("stream", ("no", "yes")) == "yes")

    @property
    def queue(self) -> Declaration:
        """As anybody declares it who knows nothing of us; so it has no arguments."""
        return Declaration(self.name, {})

    @property
    def stream(self) -> Declaration:
        """All there was, to be read from any place by any number of readers."""
        return Declaration(f"{self.name}.stream", {"x-queue-type": "stream"})

    def group(self, name: str) -> Declaration:
        """A group's queue; MCP-Universe's group, and that of the topic's name, have the topic's."""
        if name in (self.name, SEED_GROUP):
            return self.queue
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise ConfigError(f"a group's name has 1 to {MAX_NAME_BYTES} bytes: {name[:40]!r}")
        return Declaration(f"{self.name}.group.{name}", {"x-consumer-timeout": CONSUMER_TIMEOUT_MS})

    def tail(self) -> Declaration:
        """A queue for one reader; it outlives a lost connection, and not its reader."""
        return Declaration(f"{self.name}.tail.{uuid.uuid4().hex}", {"x-expires": TAIL_EXPIRES_MS})

    def letter(self, record: Record) -> Letter:
        """A record on its way to all of them."""
        headers = {ID: record.task_id, PUBLISHED: time.time_ns() // 1000}
        return Letter(self.name, truncate(record, MAX_BYTES, REMEDY), headers, exchange=self.name)

    async def declare(self, channel: Channel) -> None:
        """Make exchange and queues, so that nothing is lost that comes before any reader."""
        await channel.call("exchange_declare", self.name, "fanout", durable=True)
        for queue in (self.queue, self.stream) if self.has_stream else (self.queue,):
            await self.bind(channel, queue)

    async def bind(self, channel: Channel, queue: Declaration) -> None:
        """Have all that comes put into this queue, too."""
        await channel.declare(queue)
        await channel.call("queue_bind", queue.name, self.name)


def record_of(delivery: Delivery, position: Any) -> Record:
    """What was delivered; what somebody else has put there has no id."""
    return Record(str(delivery.headers.get(ID, "")), delivery.body, position)


def published_us(delivery: Delivery) -> int:
    """When it was published, by its publisher's clock; 0 where nobody said."""
    value = delivery.headers.get(PUBLISHED)
    return value if isinstance(value, int) else 0
