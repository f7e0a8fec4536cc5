"""RabbitAddress: a parsed amqp:// URL of the broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.connections.amqp.address import Server, server_of
from agentpipe.connections.url import Url

if TYPE_CHECKING:
    import pika

PARAMETERS = ("prefix", "queues", "management")
QUEUES = ("classic", "quorum")


@dataclass(frozen=True, slots=True)
class RabbitAddress:
    """The server, and the names that this fleet uses on it.

    Attributes:
        management: URL of the management API, or an empty string.
    """

    server: Server
    topology: Topology
    management: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse ``amqp://user:password@host:port/vhost?prefix=...``.

        Raises:
            ConfigError: The URL is invalid, or has an unknown parameter.
        """
        parsed = Url.parse(url, PARAMETERS)
        quorum = parsed.one_of("queues", QUEUES) == "quorum"
        topology = Topology(parsed.given.get("prefix", "agentpipe"), quorum=quorum)
        return cls(server_of(parsed), topology, parsed.given.get("management", ""))

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self.server.shown

    def parameters(self, heartbeat_s: int) -> pika.ConnectionParameters:
        """Connection parameters for pika."""
        return self.server.parameters(heartbeat_s, self.topology.prefix)
