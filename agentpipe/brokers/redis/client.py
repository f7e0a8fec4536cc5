"""The Redis client for an address; translates the library's errors into agentpipe's."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from agentpipe.brokers.redis.address import FILES
from agentpipe.errors import AgentpipeError, ConfigError, StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.redis.address import RedisAddress

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
OLDEST = (7, 0)
# Options that do not apply to Sentinels: they have their own passwords and no databases.
_OF_THE_SERVER = ("db", "username", "password")

log = logging.getLogger(__name__)


def open_client(address: RedisAddress) -> redis.Redis:
    """Return a client that connects on first use and never retries by itself."""
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.path:
        del options["socket_connect_timeout"], options["socket_keepalive"]
        return redis.Redis(unix_socket_path=address.path, **options)
    if address.tls is not None:
        options |= {"ssl": True, **_existing(address)}
    if address.service:
        asking = {name: options[name] for name in options if name not in _OF_THE_SERVER}
        sentinel: Any = Sentinel(address.hosts, sentinel_kwargs=asking, **options)  # type: ignore[no-untyped-call]  # its constructor has no types
        client: redis.Redis = sentinel.master_for(address.service)
        return client
    ((host, port),) = address.hosts
    return redis.Redis(host=host, port=port, **options)


def _existing(address: RedisAddress) -> dict[str, str]:
    """Return the TLS parameters; raises ConfigError if a file does not exist."""
    tls = address.tls or {}
    for name, value in tls.items():
        if name in FILES and not Path(value).is_file():
            raise ConfigError(f"{address.url}: {name}: there is no file {value!r}")
    return tls


def greet(client: redis.Redis, address: RedisAddress, channel: str) -> None:
    """Check that a Redis answers, has a supported version, and accepts the user.

    Args:
        client: A client that is not connected yet.
        address: The client's address.
        channel: A channel without subscribers.

    Raises:
        Unreachable: A check failed; the message says what to do.
    """
    try:
        info = _greeted(client, address, channel)
    except StoreError as error:  # Every other command would fail as well.
        raise Unreachable(str(error), answers=True) from error
    if info is None:
        return  # The server forbids INFO: its configuration is deliberate.
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < OLDEST:
        raise Unreachable(
            f"{address.url}: Redis {info['redis_version']} is too old, 7.0 or later is needed"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", 0) and policy != "noeviction":
        log.warning(
            "%s may throw tasks away: its maxmemory-policy is %s; set it to noeviction",
            address.url,
            policy,
        )


def _greeted(client: redis.Redis, address: RedisAddress, channel: str) -> Any:
    with translated(address):
        client.publish(channel, "")
        with suppress(NoPermissionError):
            return client.info()
    return None


@contextmanager
def translated(address: RedisAddress) -> Iterator[None]:
    """Translate the client library's errors into agentpipe's, except ``NoScriptError``.

    Raises:
        Unreachable: No server answers, or it refuses everything for now.
        StoreError: The server returned an error that does not go away by waiting.
    """
    try:
        yield
    except redis.exceptions.NoScriptError:
        raise
    except (redis.RedisError, OSError) as error:
        raise _ours(address, error) from error


def _ours(address: RedisAddress, error: Exception) -> AgentpipeError:
    text = " ".join(str(error).split())
    if isinstance(error, MasterNotFoundError):
        text = text.partition(" : ")[0]  # The rest is debug output of the library.
    remedy = _remedy(address, error, text)
    message = f"{address.url}: {remedy} ({text})" if remedy else f"{address.url}: {text}"
    if isinstance(error, _UNABLE) or any(word in text for word in _UNABLE_WORDS):
        return Unreachable(message, answers=True)
    return StoreError(message) if isinstance(error, ResponseError) else Unreachable(message)


# The server answers but refuses everything until its state or settings change: it is full, a
# replica, loading, or rejects the credentials.
_UNABLE: tuple[type[Exception], ...] = (
    redis.AuthenticationError,
    redis.BusyLoadingError,
    redis.ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    TryAgainError,
)
# A transaction's error has the class of none of these, but its text names the reason.
_OF_TRANSACTIONS = ("OOM ", "READONLY ", "CLUSTERDOWN ")
_UNABLE_WORDS = (
    *("MISCONF", "BUSY ", "NOREPLICAS", "max number of clients", "unauthenticated"),
    *_OF_TRANSACTIONS,
)
_FULL = (
    "the server's memory is full, nothing was stored: raise its maxmemory, or wait until tasks "
    "have run"
)
_REPLICA = "this is a replica that takes no writes: name the primary"

# Remedies by a substring of the message, for errors whose class is not specific enough.
_BY_TEXT = {
    "unauthenticated": "wrong user or password: write USER:PASSWORD@ before the host",
    "SSL": "TLS failed: write redis:// for a server without it, or name its CA with ssl_ca_certs",
    "DB index": "there is no such database",
    "OOM ": _FULL,
    "READONLY ": _REPLICA,
    "MISCONF": "the server cannot write to its disk; see its log",
    "MOVED": "this node of a cluster has not these keys: name the one that has",
    "CLUSTERDOWN": "the cluster is down",
    "MASTERDOWN": "a replica without its primary: name the primary",
    "Connection refused": "nothing listens there: start Redis, or correct the URL",
    "No such file": "nothing listens there: start Redis, or correct the path",
    "closed by server": "it hung up: it may be no Redis, or want TLS (rediss://)",
    "reset by peer": "it hung up: it may be no Redis, or want TLS (rediss://)",
    "not known": "there is no such host",
}
_BY_KIND: dict[type[Exception], str] = {
    redis.AuthenticationError: "wrong user or password: write USER:PASSWORD@ before the host",
    redis.BusyLoadingError: "it is still loading its data: try again in a moment",
    redis.ReadOnlyError: _REPLICA,
    OutOfMemoryError: _FULL,
    NoPermissionError: "the user may not do this: give it ~* &* +@all, or only the prefix's keys "
    "and channels",
    InvalidResponse: "what answers there is no Redis",
    MasterNotFoundError: "the Sentinels know no such primary, or do not answer",
}


def _remedy(address: RedisAddress, error: Exception, text: str) -> str:
    if isinstance(error, redis.TimeoutError):
        tls = ", and with TLS" if address.tls is not None else ""
        return f"no answer: does a Redis run there{tls}?"
    for kind, remedy in _BY_KIND.items():
        if isinstance(error, kind):
            return remedy
    return next((remedy for part, remedy in _BY_TEXT.items() if part in text), "")
