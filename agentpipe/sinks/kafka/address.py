"""KafkaAddress: a parsed kafka:// URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from agentpipe.connections.environment import TOPIC
from agentpipe.connections.url import Url

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 9092
COMPRESSIONS = ("gzip", "none", "lz4", "snappy", "zstd")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?")
PARAMETERS = (
    "partitions",
    "replication",
    "compression",
    "max_bytes",
    "proxy",
    "recall",
    "session_s",
    "sasl",
    "tls",
)


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """The brokers and the topic, with their options.

    Attributes:
        servers: Each as ``host:port``.
        partitions: Number of partitions for a new topic.
        replication: Replication factor for a new topic; -1 for the broker's default.
        max_bytes: Size limit of a record; 0 for the topic's limit.
        recall: Number of earlier records whose ids a group's reader learns.
        session_s: A reader silent for longer is removed from its group.
        proxy: The SOCKS 5 proxy for all connections; empty for none.
        client: The client library's configuration.
        shown: The URL without its secrets.
    """

    servers: tuple[str, ...]
    topic: str
    partitions: int
    replication: int
    compression: str | None
    max_bytes: int
    recall: int
    session_s: float
    proxy: str
    client: Mapping[str, Any]
    shown: str

    @property
    def has_login(self) -> bool:
        """Whether the URL has a user and a password."""
        return "sasl_mechanism" in self.client

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse ``kafka://user:password@host:port,host:port/topic?...``.

        Raises:
            ConfigError: The URL is invalid, or has an unknown parameter.
        """
        parsed = Url.parse(url, PARAMETERS)
        login, _, hosts = parsed.parts.netloc.rpartition("@")
        servers = tuple(_server(parsed, host) for host in (hosts or "localhost").split(","))
        compression = parsed.one_of("compression", COMPRESSIONS)
        proxy = _proxy(parsed)
        client = {"bootstrap_servers": list(servers), **_security(parsed, login)}
        return cls(
            servers,
            _topic(parsed),
            parsed.number("partitions", 8),
            parsed.number("replication", -1),
            None if compression == "none" else compression,
            parsed.number("max_bytes", 0),
            parsed.number("recall", 20_000, least=0),
            parsed.number("session_s", 10),
            proxy,
            {**client, "proxy_url": proxy} if proxy else client,
            parsed.shown,
        )


def _server(url: Url, text: str) -> str:
    match = _SERVER.fullmatch(text)
    if not match or not 0 < int(match[2] or PORT) < 65_536:  # noqa: PLR2004 - TCP ports
        raise url.wrong(f"{text!r} is not host:port")
    return f"{match[1]}:{match[2] or PORT}"


def _proxy(url: Url) -> str:
    text = url.given.get("proxy", "")
    scheme, _, server = text.partition("://")
    if text and (scheme not in ("socks5", "socks5h") or not _SERVER.fullmatch(server)):
        raise url.wrong("proxy is socks5h://host:port, or socks5:// to look names up here")
    return text


def _topic(url: Url) -> str:
    """The topic's name, by Kafka's own rule."""
    name = unquote(url.parts.path[1:]) or TOPIC
    if name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        raise url.wrong(f"invalid topic {name!r}: use up to 249 letters, digits, dots, _ and -")
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
        raise url.wrong("sasl needs a user: kafka://user:password@host:port/topic")
    protocol = ("SASL_" if login else "") + ("SSL" if wants_tls else "PLAINTEXT")
    return {"security_protocol": protocol, **security}
