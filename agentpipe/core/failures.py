"""Failures: whether a service or the agent failed, when to retry, and error records."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.core.backoff import delay_s
from agentpipe.core.causes import attribute, causes, status_of
from agentpipe.core.error_codes import is_rate_limit, names_a_failed_service, names_the_set_up
from agentpipe.core.masking import shorten
from agentpipe.core.outside import valid_text
from agentpipe.core.retry_after import asked_delay_s, reset_delay_s, seconds
from agentpipe.core.set_up import is_missing
from agentpipe.core.shortage import shortage_of
from agentpipe.errors import AgentFailed, AgentpipeError, InfraError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from agentpipe.core.redaction import Redactor

MAX_RETRY_DELAY_S = 300.0
MAX_ERROR_CHARS = 4_000
# Exception groups with more levels or members than this are not looked at.
MAX_LEVELS, MAX_MEMBERS = 50, 10_000
# What calls an agent: agentpipe, and the event loop of its thread.
CALLERS = (f"{Path(__file__).parents[1]}{os.sep}", f"{Path(asyncio.__file__).parent}{os.sep}")
TOO_BUSY = frozenset({408, 429})
SERVER_ERRORS = range(500, 600)
REFUSED_CREDENTIALS = frozenset({401, 403})
PAYMENT_REQUIRED = 402
SET_UP_STATUSES = REFUSED_CREDENTIALS | {PAYMENT_REQUIRED}
UNAVAILABLE = 503
# Errors that agents' libraries raise without deriving from ConnectionError or TimeoutError. They
# are matched by name so that none of these libraries must be imported.
TRANSPORT_ERRORS = frozenset(
    {
        "APIConnectionError",
        "ChunkedEncodingError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectError",
        "ConnectTimeoutError",
        "ConnectionError",
        "HTTPTimeoutError",
        "IncompleteRead",
        "MaxRetryError",
        "NewConnectionError",
        "ReadTimeoutError",
        "SSLError",
        "ServerDisconnectedError",
        "Timeout",
        "TimeoutException",
        "TransportError",
        "URLError",
        "gaierror",
    }
)
# What the machine's network reports without a connection.
UNREACHABLE = frozenset(
    {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH}
)


def is_infra(error: BaseException) -> bool:
    """Whether a service or the setup failed, not the agent: by type, status, name or cause."""
    if shortage_of(error) or is_permanent(error):
        return True
    for each in causes(error):
        if isinstance(each, BaseExceptionGroup):
            return all(map(is_infra, each.exceptions))
        if isinstance(each, AgentFailed):
            return each.infra
        if _tells_of_a_service(each):
            return True
    return False


def is_permanent(error: BaseException) -> bool:
    """Whether the setup failed, such as a refused credential: further runs do not help."""
    return not shortage_of(error) and _is_permanent(error)


def _is_permanent(error: BaseException) -> bool:
    for each in causes(error):
        if isinstance(each, BaseExceptionGroup):
            return any(map(_is_permanent, each.exceptions))
        if isinstance(each, (AgentFailed, InfraError)):
            return attribute(each, "permanent") is True
        if _tells_of_the_set_up(each):
            return True
    return False


def _tells_of_the_set_up(error: BaseException) -> bool:
    if is_rate_limit(error):  # Some services answer 403 for a rate limit.
        return False
    return status_of(error) in SET_UP_STATUSES or is_missing(error) or names_the_set_up(error)


def _tells_of_a_service(error: BaseException) -> bool:
    if isinstance(error, (InfraError, ConnectionError, TimeoutError)):
        return True
    status = status_of(error)
    if status in TOO_BUSY or status in SERVER_ERRORS or is_rate_limit(error):
        return True
    if names_a_failed_service(error):
        return True
    if isinstance(error, OSError) and error.errno in UNREACHABLE:
        return True
    named = any(kind.__name__ in TRANSPORT_ERRORS for kind in type(error).__mro__)
    return named and status is None  # An error with a status means that a server answered.


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A service asks for a pause; this does not count as its failure.

    Attributes:
        asked_s: How long to pause; None if the service does not say.
        of_credential: Whether the limit applies to everything that uses the same credential. If
            not, only the agent knows which service it called.
    """

    asked_s: float | None
    of_credential: bool


def rate_limit(error: BaseException) -> RateLimit | None:
    """Return the limit that a service reports; None for a plain failure.

    A 503 counts only if it says when to retry; without that it is an ordinary failure.
    """
    groups = (each for each in causes(error) if isinstance(each, BaseExceptionGroup))
    members = (member for group in groups for member in group.exceptions)
    return _strictest([_rate_limit(error), *map(rate_limit, members)])


def _rate_limit(error: BaseException) -> RateLimit | None:
    asked_s = asked_delay_s(error)
    if any(map(_is_rate_limited, causes(error))):
        return RateLimit(reset_delay_s(error) if asked_s is None else asked_s, of_credential=True)
    if asked_s is None or not any(map(_may_ask, causes(error))):
        return None
    return RateLimit(asked_s, of_credential=False)


def _is_rate_limited(error: BaseException) -> bool:
    return is_rate_limit(error) or (isinstance(error, AgentFailed) and error.rate_limited)


def _strictest(limits: Iterable[RateLimit | None]) -> RateLimit | None:
    found = [limit for limit in limits if limit is not None]
    if not found:
        return None
    asked_s = max((each.asked_s for each in found if each.asked_s is not None), default=None)
    return RateLimit(asked_s, any(each.of_credential for each in found))


def _may_ask(error: BaseException) -> bool:
    if status_of(error) == UNAVAILABLE:
        return True
    ours = isinstance(error, (InfraError, AgentFailed))
    return ours and seconds(attribute(error, "retry_after_s")) is not None


def retry_delay_s(error: BaseException, base_s: float, failures: int) -> float:
    """Double the delay per failure, with jitter to spread the retries of a fleet."""
    backoff_s = delay_s(failures + 1, base_s, MAX_RETRY_DELAY_S)
    jittered_s = backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return max(jittered_s, asked_delay_s(error) or 0.0)


def error_record(error: BaseException, redactor: Redactor) -> dict[str, Any]:
    """Return ``{type, message, traceback}``, with ``permanent: true`` if the setup failed.

    The traceback starts at the agent's code; agentpipe's own errors have none.
    """
    return {
        "type": error_kind(error),
        "message": shorten(redactor.text(error_text(error)), MAX_ERROR_CHARS),
        "traceback": _traceback_of(error),
        **({"permanent": True} if is_permanent(error) else {}),
    }


def readable(error: BaseException) -> BaseException:
    """Return the error, or a stand-in if its class raises on any access, or it has no end."""
    try:
        if any(isinstance(each, AgentFailed) for each in causes(error)) or _has_an_end(error):
            return error
        why = f"it holds more than {MAX_MEMBERS:,} errors, or groups in {MAX_LEVELS} levels"
    except Exception:  # noqa: BLE001 - it is the agent's code
        why = "its class raises"
    stand_in: type[Exception] = type(type(error).__name__, (Exception,), {})
    frames = BaseException.__dict__["__traceback__"].__get__(error)
    return stand_in(f"nothing can be read of it: {why}").with_traceback(frames)


def _has_an_end(error: BaseException) -> bool:
    """Whether its groups can be looked at one by one: they can hold each other many times over."""
    members, number = [error], 0
    for _ in range(MAX_LEVELS):
        found = [each for member in members for each in causes(member)]
        groups = [each for each in found if isinstance(each, BaseExceptionGroup)]
        members = [member for group in groups for member in group.exceptions]
        number += len(members)
        if not members or number > MAX_MEMBERS:
            break
    return not members


def error_kind(error: BaseException) -> str:
    """Return the name of the error's type in the process that raised it."""
    kind = type(error)  # `isinstance` could run the error's own code.
    if issubclass(kind, AgentFailed):
        said: str = error.kind  # type: ignore[attr-defined]  # the test narrows only its type
        return said
    return kind.__name__


def error_text(error: BaseException) -> str:
    """Return the error's message, even if its ``__str__`` raises."""
    if issubclass(type(error), asyncio.CancelledError):
        return "the agent cancelled itself"
    try:
        return valid_text(str(error))
    except BaseException:  # noqa: BLE001 - it is the agent's code, and may even exit
        return "its message cannot be shown: __str__ raises"


def error_line(error: BaseException) -> str:
    """Return the error's type name and message."""
    return f"{error_kind(error)}: {error_text(error)}"


def _traceback_of(error: BaseException) -> str | None:
    if isinstance(error, AgentFailed):
        return error.traceback and shorten(error.traceback, MAX_ERROR_CHARS, keep_end=True)
    own = isinstance(error, AgentpipeError) and not isinstance(error, InfraError)
    return None if own else _traceback(error)


def _traceback(error: BaseException) -> str | None:
    try:
        text = "".join(traceback.format_tb(_agents_frames(error) or error.__traceback__))
    except Exception:  # noqa: BLE001 - linecache reads the agent's files
        return None
    return valid_text(shorten(text, MAX_ERROR_CHARS, keep_end=True)) or None


def _agents_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback below the agent's callers; None if the agent is not in it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(CALLERS):
        frames = frames.tb_next
    return frames
