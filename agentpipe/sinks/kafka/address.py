"""KafkaAddress: a kafka:// URL taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from agentpipe.connections.url import Url
from agentpipe.settings import TOPIC

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 9092
COMPRESSIONS = ("gzip", "none", "lz4", "snappy", "zstd")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PARAMETERS = (
    "partitions",
    "replication",
    "compression",
    "max_bytes",
    "recall",
    "session_s",
    "sasl",
    "tls",
)


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """Where the brokers are, and how to talk to them.

    Attributes:
        servers: Each as ``host:port``.
        partitions: Of the topic, where it has to be made.
        replication: The same; -1 leaves it to the broker.
        max_bytes: Of a record; 0 asks the topic.
        recall: Of so many records before its first one a group's reader learns the ids.
        session_s: A reader that is silent for longer is dead to its group.
        client: What the client library is configured with.
        shown: The URL as it may be shown.
    """

    servers: tuple[str, ...]
    topic: str
    partitions: int
    replication: int
    compression: str | None
    max_bytes: int
    recall: int
    session_s: float
    client: Mapping[str, Any]
    shown: str

    @property
    def has_login(self) -> bool:
        """Whether we come with a user and a password."""
        return "sasl_mechanism" in self.client

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take ``kafka://user:password@host:port,host:port/topic?...`` apart.

        Raises:
            ConfigError: It cannot be read, or has a parameter that is not known.
        """
        parsed = Url.parse(url, PARAMETERS)
        login, _, hosts = parsed.parts.netloc.rpartition("@")
        servers = tuple(_server(parsed, host) for host in (hosts or "localhost").split(","))
        compression = parsed.one_of("compression", COMPRESSIONS)
        return cls(
            servers,
            _topic(parsed),
            parsed.number("partitions", 8),
            parsed.number("replication", -1),
            None if compression == "none" else compression,
            parsed.number("max_bytes", 0),
            parsed.number("recall", 20_000, least=0),
            parsed.number("session_s", 10),
            {"bootstrap_servers": list(servers), **_security(parsed, login)},
            parsed.shown,
        )


def _server(url: Url, text: str) -> str:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?", text)
    if not match or not 0 < int(match[2] or PORT) < 65_536:  # noqa: PLR2004 - TCP's ports
        raise url.wrong(f"{text!r} is not host:port")
    return f"{match[1]}:{match[2] or PORT}"


def _topic(url: Url) -> str:
    """Kafka's own rule for names."""
    name = unquote(url.parts.path[1:]) or TOPIC
    if name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        raise url.wrong(f"{name!r} is no topic: up to 249 letters, digits, dots, _ and -")
    return name


def _security(url: Url, login: str) -> dict[str, Any]:
    """TLS by ``tls=yes`` or a certificate, SASL by a user in the URL."""
    wants_tls = url.one_of("tls", ("no", "yes")) == "yes" or "cafile" in url.given
    user, _, password = login.partition(":")
    security: dict[str, Any] = {"ssl_context": url.tls()} if wants_tls else {}
    if login:
        security |= {
            "sasl_mechanism": url.one_of("sasl", MECHANISMS),
            "sasl_plain_username": unquote(user),
            "sasl_plain_password": unquote(password),
        }
    elif "sasl" in url.given:
        raise url.wrong("sasl wants a user: kafka://user:password@host:port/topic")
    protocol = ("SASL_" if login else "") + ("SSL" if wants_tls else "PLAINTEXT")
    return {"security_protocol": protocol, **security}
