"""Topic: an exchange, the queue that everybody knows by its name, and each group's own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from agentpipe.amqp.address import Server, server_of
from agentpipe.amqp.letter import Declaration, Letter
from agentpipe.errors import ConfigError
from agentpipe.settings import SEED_GROUP, TOPIC
from agentpipe.url import Url

if TYPE_CHECKING:
    from agentpipe.amqp.channel import Channel, Delivery
    from agentpipe.sinks.sink import Record

PARAMETERS = ("topic", "stream")
CHOICES = ("no", "yes")
ID_HEADER = "agentpipe-id"
# When it was published, in milliseconds of Unix time.
AT_HEADER = "agentpipe-at-ms"
# A caller may be busy with a record for longer than the server's half an hour; from RabbitMQ
# 3.12 a queue may say so itself.
CONSUMER_TIMEOUT_MS = 7 * 86_400_000
# What AMQP allows, less what our suffixes need.
MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Topic:
    """Where results go.

    Attributes:
        keeps: Whether there is a stream queue, which can be read from the beginning many times.
    """

    server: Server
    name: str
    keeps: bool

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take ``amqp://user:password@host:port/vhost?topic=...&stream=yes`` apart.

        Raises:
            ConfigError: It cannot be read, or has a parameter that is not known.
        """
        parsed = Url.parse(url, PARAMETERS)
        keeps = parsed.one_of("stream", CHOICES) == "yes"
        name = parsed.given.get("topic", TOPIC)
        if len(name) > MAX_NAME_CHARS:
            raise parsed.wrong(f"a topic has at most {MAX_NAME_CHARS} characters")
        return cls(server_of(parsed), name, keeps)

    @property
    def queue(self) -> Declaration:
        """What MCP-Universe's consumers read: plain, durable, without arguments."""
        return Declaration(self.name, {})

    @property
    def stream(self) -> Declaration:
        """Keeps all, for whoever reads it."""
        return Declaration(f"{self.name}.stream", {"x-queue-type": "stream"})

    def of_group(self, group: str) -> Declaration:
        """A group's own; MCP-Universe's, and one called as the topic, have the topic's queue."""
        if group in (self.name, SEED_GROUP):
            return self.queue
        if not 0 < len(group) <= 255 - MAX_NAME_CHARS - len("..filling"):
            raise ConfigError(f"group {group!r:.60}: a name of 1 to 40 characters")
        name = f"{self.name}.{group}"
        return Declaration(name, {"x-consumer-timeout": CONSUMER_TIMEOUT_MS})

    def letter(self, record: Record, body: bytes) -> Letter:
        """A result on its way to all queues of the topic."""
        headers = {ID_HEADER: record.task_id, AT_HEADER: time.time_ns() // 1_000_000}
        return Letter("", body, headers, self.name)

    async def make(self, channel: Channel) -> None:
        """The exchange, and the queues that take results before any reader comes."""
        await channel.call("exchange_declare", self.name, "fanout", durable=True)
        for queue in (self.queue, self.stream) if self.keeps else (self.queue,):
            await self.bind(channel, queue)

    async def bind(self, channel: Channel, queue: Declaration) -> None:
        """Make a queue, and let it have what comes from now on."""
        await channel.declare(queue)
        await channel.call("queue_bind", queue.name, self.name)

    def no_past(self, who: str) -> ConfigError:
        """What is said to one who wants what a queue cannot give."""
        return ConfigError(
            f"{self.server.shown}: a queue holds no past for {who}: begin now, read as the group "
            f"{self.name!r}, or give ?stream=yes to all who publish and read"
        )


def id_of(delivery: Delivery) -> str:
    """The task whose result it is; empty for what others put there."""
    return str(delivery.headers.get(ID_HEADER, ""))
