"""Server: the address of a RabbitMQ, from its URL. Broker and sink parse their own parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pika

if TYPE_CHECKING:
    import ssl

    from agentpipe.connections.url import Url

PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Server:
    """The address and the credentials of a RabbitMQ.

    Attributes:
        shown: The URL without its password.
    """

    host: str
    port: int
    user: str
    password: str
    vhost: str
    shown: str
    tls: ssl.SSLContext | None = None

    def parameters(self, heartbeat_s: int, name: str) -> pika.ConnectionParameters:
        """Connection parameters for pika; the server lists the connection under ``name``."""
        tls: dict[str, Any] = {}
        if self.tls is not None:
            tls["ssl_options"] = pika.SSLOptions(self.tls, self.host)
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password, erase_on_connect=False),
            heartbeat=heartbeat_s,
            connection_attempts=1,
            socket_timeout=5,
            stack_timeout=10,
            client_properties={"connection_name": f"agentpipe {name}"},
            **tls,
        )


def server_of(url: Url) -> Server:
    """Parse ``amqp://user:password@host:port/vhost``.

    Raises:
        ConfigError: The port is invalid, or a certificate cannot be read.
    """
    parts = url.parts
    try:
        port = parts.port or PORTS[parts.scheme]
    except ValueError as error:
        raise url.wrong(str(error)) from error
    return Server(
        parts.hostname or "localhost",
        port,
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        unquote(parts.path[1:]) or "/",
        url.shown,
        url.tls() if parts.scheme == "amqps" else None,
    )
