"""Server errors: the client library's errors as agentpipe's, each with a remedy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from redis.exceptions import (
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ResponseError,
    TryAgainError,
)
from redis.sentinel import MasterNotFoundError

from agentpipe.errors import AgentpipeError, StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.redis.address import RedisAddress

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
_CREDENTIALS = "wrong user or password: write USER:PASSWORD@ before the host"
_REPLICA = "this is a replica that takes no writes: name the primary"

# Remedies by a substring of the message, for errors whose class is not specific enough.
_BY_TEXT = {
    "unauthenticated": _CREDENTIALS,
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
    redis.AuthenticationError: _CREDENTIALS,
    redis.BusyLoadingError: "it is still loading its data: try again in a moment",
    redis.ReadOnlyError: _REPLICA,
    OutOfMemoryError: _FULL,
    NoPermissionError: "the user may not do this: give it ~* &* +@all, or only the prefix's keys "
    "and channels",
    InvalidResponse: "what answers there is no Redis",
    MasterNotFoundError: "the Sentinels know no such primary, or do not answer",
}


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


def _remedy(address: RedisAddress, error: Exception, text: str) -> str:
    if isinstance(error, redis.TimeoutError):
        tls = ", and with TLS" if address.tls is not None else ""
        return f"no answer: does a Redis run there{tls}?"
    for kind, remedy in _BY_KIND.items():
        if isinstance(error, kind):
            return remedy
    return next((remedy for part, remedy in _BY_TEXT.items() if part in text), "")
