"""Address: a kafka:// URL taken apart."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from agentpipe.errors import ConfigError
from agentpipe.settings import without_password

if TYPE_CHECKING:
    from collections.abc import Mapping

TOPIC = "agent-task-mq"
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
    "cafile",
    "certfile",
    "keyfile",
)


@dataclass(frozen=True, slots=True)
class Address:
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
        shown = without_password(url)
        try:
            parts = urlsplit(url)
            given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}") from error
        _refuse_unknown(shown, given)
        login, _, hosts = parts.netloc.rpartition("@")
        servers = tuple(_server(shown, host) for host in (hosts or "localhost").split(","))
        compression = _one_of(shown, given, "compression", COMPRESSIONS)
        return cls(
            servers,
            _topic(shown, unquote(parts.path[1:]) or TOPIC),
            _number(shown, given, "partitions", 8),
            _number(shown, given, "replication", -1),
            None if compression == "none" else compression,
            _number(shown, given, "max_bytes", 0),
            _number(shown, given, "recall", 20_000),
            _number(shown, given, "session_s", 10),
            {"bootstrap_servers": list(servers), **_security(shown, login, given)},
            shown,
        )


def _refuse_unknown(shown: str, given: Mapping[str, str]) -> None:
    for name in given:
        if name not in PARAMETERS:
            raise ConfigError(
                f"{shown}: {name!r} is no parameter; there are {', '.join(PARAMETERS)}"
            )


def _server(shown: str, text: str) -> str:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?", text)
    if not match or not 0 < int(match[2] or PORT) < 65_536:  # noqa: PLR2004 - TCP's ports
        raise ConfigError(f"{shown}: {text!r} is not host:port")
    return f"{match[1]}:{match[2] or PORT}"


def _topic(shown: str, name: str) -> str:
    """Kafka's own rule for names."""
    if name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        raise ConfigError(
            f"{shown}: {name!r} is no topic: up to 249 letters, digits, dots, _ and -"
        )
    return name


def _number(shown: str, given: Mapping[str, str], name: str, default: int) -> int:
    if name not in given:
        return default
    if not given[name].isdecimal() or (not int(given[name]) and name != "recall"):
        raise ConfigError(f"{shown}: {name} is a whole number, at least 1")
    return int(given[name])


def _one_of(shown: str, given: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    choice = given.get(name, choices[0])
    if choice not in choices:
        raise ConfigError(f"{shown}: {name} is one of {', '.join(choices)}")
    return choice


def _security(shown: str, login: str, given: Mapping[str, str]) -> dict[str, Any]:
    """TLS by ``tls=yes`` or a certificate, SASL by a user in the URL."""
    wants_tls = _one_of(shown, given, "tls", ("no", "yes")) == "yes" or "cafile" in given
    user, _, password = login.partition(":")
    security: dict[str, Any] = {}
    if wants_tls:
        security["ssl_context"] = _tls(shown, given)
    if login:
        security |= {
            "sasl_mechanism": _one_of(shown, given, "sasl", MECHANISMS),
            "sasl_plain_username": unquote(user),
            "sasl_plain_password": unquote(password),
        }
    elif "sasl" in given:
        raise ConfigError(f"{shown}: sasl wants a user: kafka://user:password@host:port/topic")
    protocol = {(False, False): "PLAINTEXT", (True, False): "SSL"}
    protocol |= {(False, True): "SASL_PLAINTEXT", (True, True): "SASL_SSL"}
    return {"security_protocol": protocol[wants_tls, bool(login)], **security}


def _tls(shown: str, given: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=given.get("cafile"))
        if "certfile" in given:
            context.load_cert_chain(given["certfile"], given.get("keyfile"))
    except OSError as error:
        raise ConfigError(f"{shown}: the certificates cannot be read: {error}") from error
    return context
