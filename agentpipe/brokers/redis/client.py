"""The Redis client for an address, and what it checks of a server before it is used."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from redis.sentinel import Sentinel

from agentpipe.brokers.redis.address import FILES
from agentpipe.brokers.redis.server_errors import translated
from agentpipe.errors import ConfigError, StoreError, Unreachable

if TYPE_CHECKING:
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
