"""Server: an amqp:// URL taken apart, but for what the parameters mean to broker and sink."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import pika

from agentpipe.errors import ConfigError
from agentpipe.settings import without_password

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TLS_PARAMETERS = ("cafile", "certfile", "keyfile")
PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Server:
    """Where a RabbitMQ is, and who we are there.

    Attributes:
        shown: The URL as it may be shown.
    """

    host: str
    port: int
    user: str
    password: str
    vhost: str
    shown: str
    tls: ssl.SSLContext | None = None

    def parameters(self, heartbeat_s: int, name: str) -> pika.ConnectionParameters:
        """As pika wants them; ``name`` is what the server lists the connection by."""
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
            client_properties={"connection_name": f"agentpipe {name}"},
            **tls,
        )


def parse(url: str, known: Sequence[str]) -> tuple[Server, dict[str, str]]:
    """Take ``amqp://user:password@host:port/vhost?...`` apart: the server, and the parameters.

    ``known`` are those that it may have, beside those of TLS.

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
    _refuse_unknown(shown, given, (*known, *TLS_PARAMETERS))
    server = Server(
        parts.hostname or "localhost",
        port,
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        unquote(parts.path[1:]) or "/",
        shown,
        _tls(shown, parts, given),
    )
    return server, given


def refuse_other(shown: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ConfigError where the parameter ``name`` is none of the ``choices``."""
    if value not in choices:
        raise ConfigError(f"{shown}: {name} is one of {', '.join(choices)}")


def _refuse_unknown(shown: str, given: Mapping[str, str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{shown}: {name!r} is no parameter; there are {', '.join(known)}")


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
