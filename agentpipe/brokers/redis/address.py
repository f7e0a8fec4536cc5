"""RedisAddress: the URL of a Redis store, parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from agentpipe.connections.url import split_url
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError

DEFAULT_PREFIX = "agentpipe"
PORT = 6379
SENTINEL_PORT = 26379
# TLS parameters that name files; the names are the client library's.
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_VALUES = {"ssl_cert_reqs": ("required", "none"), "tls": ("yes", "no")}
_OPTIONS = (*FILES, "ssl_cert_reqs")
# Sentinel URLs have no TLS scheme, hence ``tls``. TLS settings apply to Sentinels and primary.
_TLS = {"rediss": _OPTIONS, "redis+sentinel": ("tls", *_OPTIONS)}
_SHAPES = {
    "redis": "redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
    "rediss": "rediss://[USER:PASSWORD@]HOST[:PORT][/DB]",
    "unix": "unix://[USER:PASSWORD@]/path/of/redis.sock[?db=DB]",
    "redis+sentinel": "redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/NAME[?db=DB&tls=yes]",
}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The server, user and key prefix of a store.

    Attributes:
        url: The URL without its password, safe to display.
        hosts: The server, or one or more Sentinels; empty for a socket file.
        path: The socket file.
        service: The Sentinels' name for the server.
        prefix: Prefix of every key, so that several stores can share a database.
        tls: TLS keywords for the client library; None without TLS.
    """

    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    prefix: str = DEFAULT_PREFIX
    tls: dict[str, str] | None = None


def parse_url(url: str) -> RedisAddress:
    """Parse ``redis://``, ``rediss://``, ``unix://`` and ``redis+sentinel://`` URLs.

    Raises:
        ConfigError: The URL is invalid; the message shows the expected form.
    """
    try:
        return _address(url, split_url(url))
    except ValueError as error:
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"{without_password(url)}: {error}; write {_SHAPES.get(scheme, _SHAPES['redis'])}"
        ) from error


def _address(url: str, parts: SplitResult) -> RedisAddress:
    parameters = _parameters(parts.scheme, parts.query)
    credentials, _, place = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    fields: dict[str, Any] = {
        "url": without_password(url),
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "prefix": _prefix(parameters.pop("prefix", DEFAULT_PREFIX)),
    }
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "unix":
        fields["path"] = _socket_file(place, unquote(parts.path))
    elif parts.scheme == "redis+sentinel":
        fields["service"] = _service(name)
        fields["hosts"] = tuple(_host(each, SENTINEL_PORT) for each in place.split(","))
    else:
        fields["hosts"] = (_host(place, PORT),)
        parameters.setdefault("db", name or "0")
    fields["db"] = _database(parameters.pop("db", "0"))
    wants_tls = parts.scheme == "rediss" or parameters.pop("tls", "no") == "yes" or parameters
    fields["tls"] = parameters if wants_tls else None
    return RedisAddress(**fields)


def _socket_file(place: str, path: str) -> str:
    if place or len(path) < 2:  # noqa: PLR2004 - a slash and a name
        raise ValueError("the path of a socket file begins with a third slash")
    return path


def _service(name: str) -> str:
    if not name or "/" in name:
        raise ValueError("the name that the Sentinels have for the server is missing")
    return name


def _parameters(scheme: str, query: str) -> dict[str, str]:
    known = ["prefix", "db", *_TLS.get(scheme, ())]
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ValueError(f"unknown parameter {name!r}: {did_you_mean(name, known)}")
        if not value:
            raise ValueError(f"{name} is empty")
        allowed = _VALUES.get(name)
        if allowed and value not in allowed:
            raise ValueError(f"{name} is {' or '.join(allowed)}, not {value!r}")
        found[name] = value
    return found


def _prefix(value: str) -> str:
    if "{" in value or "}" in value:
        raise ValueError("a prefix has no braces: they are put around it, as the keys' hash tag")
    return value


def _host(place: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("the host is missing")
    return unquote(parts.hostname), parts.port or default_port


def _database(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"a database has a number, not {text[:40]!r}")
    return int(text)
