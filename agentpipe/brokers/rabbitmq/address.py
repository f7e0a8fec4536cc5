"""Address: an amqp:// URL taken apart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import pika

from agentpipe.brokers.rabbitmq.names import Names
from agentpipe.errors import ConfigError
from agentpipe.settings import without_password

PARAMETERS = ("prefix", "queues", "management", "cafile", "certfile", "keyfile")
QUEUES = ("classic", "quorum")
PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, and under which names this fleet lives there.

    Attributes:
        shown: The URL as it may be shown.
        management: URL of the management API, or an empty string.
    """

    host: str
    port: int
    user: str
    password: str
    vhost: str
    names: Names
    shown: str
    tls: ssl.SSLContext | None = None
    management: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take ``amqp://user:password@host:port/vhost?prefix=...`` apart.

        Raises:
            ConfigError: It cannot be read, or has a parameter that is not known.
        """
        shown = without_password(url)
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS[parts.scheme]
            given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}") from error
        _refuse_unknown(shown, given)
        return cls(
            parts.hostname or "localhost",
            port,
            unquote(parts.username or "guest"),
            unquote(parts.password or "guest"),
            unquote(parts.path[1:]) or "/",
            Names(given.get("prefix", "agentpipe"), quorum=given.get("queues") == "quorum"),
            shown,
            _tls(shown, parts, given),
            given.get("management", ""),
        )

    def parameters(self, heartbeat_s: int) -> pika.ConnectionParameters:
        """As pika wants them."""
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
            stack_timeout=5,
            client_properties={"connection_name": f"agentpipe {self.names.prefix}"},
            **tls,
        )


def _refuse_unknown(shown: str, given: dict[str, str]) -> None:
    for name in given:
        if name not in PARAMETERS:
            raise ConfigError(
                f"{shown}: {name!r} is no parameter; there are {', '.join(PARAMETERS)}"
            )
    if given.get("queues", "classic") not in QUEUES:
        raise ConfigError(f"{shown}: queues is one of {', '.join(QUEUES)}")


def _tls(shown: str, parts: SplitResult, given: dict[str, str]) -> ssl.SSLContext | None:
    if parts.scheme != "amqps":
        return None
    try:
        context = ssl.create_default_context(cafile=given.get("cafile"))
        if "certfile" in given:
            context.load_cert_chain(given["certfile"], given.get("keyfile"))
    except OSError as error:
        raise ConfigError(f"{shown}: the certificates cannot be read: {error}") from error
    return context
