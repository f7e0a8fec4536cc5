"""Failures: whether a service or the agent failed, when to retry, and errors as records."""

from __future__ import annotations

import asyncio
import random
import re
import time
import traceback
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.core.backoff import delay_s
from agentpipe.core.set_up import is_missing
from agentpipe.core.shortage import shortage_of
from agentpipe.errors import AgentFailed, AgentpipeError, InfraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.core.redaction import Redactor

MAX_RETRY_DELAY_S = 300.0
MAX_ASKED_DELAY_S = 86_400.0
MAX_ERROR_CHARS = 4_000
OUR_FOLDER = str(Path(__file__).parent)
TOO_BUSY = frozenset({408, 429})
SERVER_ERRORS = range(500, 600)
REFUSED_CREDENTIALS = frozenset({401, 403})
PAYMENT_REQUIRED = 402
SET_UP_STATUSES = REFUSED_CREDENTIALS | {PAYMENT_REQUIRED}
# What the SDKs of models have in an error's ``code`` or ``type``, beside a status.
SET_UP_CODES = frozenset(
    {
        "account_deactivated",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_quota",
        "invalid_api_key",
        "model_not_found",
    }
)
# With these statuses a service may say when to call it again.
RATE_LIMITS = frozenset({429, 503})
_NUMBER = re.compile(r"\s*[0-9]+(\.[0-9]*)?\s*")
# The libraries that agents use raise these without deriving from ConnectionError or
# TimeoutError; they are known by name so that none of them has to be imported.
TRANSPORT_ERRORS = frozenset(
    {
        "APIConnectionError",
        "ClientConnectionError",
        "ConnectError",
        "ConnectionError",
        "HTTPTimeoutError",
        "MaxRetryError",
        "ServerDisconnectedError",
        "Timeout",
        "TimeoutException",
        "TransportError",
        "URLError",
        "gaierror",
    }
)


def is_infra(error: BaseException) -> bool:
    """Whether a service or the set-up failed, not the agent: by type, status, name or cause."""
    if shortage_of(error) or is_permanent(error):
        return True
    for each in _causes(error):
        if isinstance(each, BaseExceptionGroup):
            return all(map(is_infra, each.exceptions))
        if isinstance(each, AgentFailed):
            return each.infra
        if _tells_of_a_service(each):
            return True
    return False


def is_permanent(error: BaseException) -> bool:
    """Whether the set-up failed, as a refused credential does: no further run helps."""
    return not shortage_of(error) and _is_permanent(error)


def _is_permanent(error: BaseException) -> bool:
    for each in _causes(error):
        if isinstance(each, BaseExceptionGroup):
            return any(map(_is_permanent, each.exceptions))
        if isinstance(each, (AgentFailed, InfraError)):
            return _attribute(each, "permanent") is True
        if _tells_of_the_set_up(each):
            return True
    return False


def _tells_of_the_set_up(error: BaseException) -> bool:
    codes = (_attribute(error, "code"), _attribute(error, "type"))
    if any(isinstance(code, str) and code in SET_UP_CODES for code in codes):
        return True
    return _status(error) in SET_UP_STATUSES or is_missing(error)


def _tells_of_a_service(error: BaseException) -> bool:
    if isinstance(error, (InfraError, ConnectionError, TimeoutError)):
        return True
    status = _status(error)
    if status in TOO_BUSY or status in SERVER_ERRORS:
        return True
    named = any(kind.__name__ in TRANSPORT_ERRORS for kind in type(error).__mro__)
    return named and status is None  # With a status, a server did answer.


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # Causes may form a cycle.
        yield error
        seen.add(id(error))
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status as httpx and requests, openai, aiohttp, or urllib keep it."""
    response = _attribute(error, "response")
    for holder, name in (
        (response, "status_code"),
        (error, "status_code"),
        (error, "status"),
        (error, "code"),
    ):
        status = _attribute(holder, name)
        if isinstance(status, int):
            return status
    return None


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - properties of others' classes may raise anything
        return None


def hold_s(error: BaseException) -> float | None:
    """The cooldown that a rate-limited service asks for; None without one."""
    if isinstance(error, BaseExceptionGroup):
        return max(filter(None, map(hold_s, error.exceptions)), default=None)
    limited = any(
        _status(each) in RATE_LIMITS
        or (
            isinstance(each, (InfraError, AgentFailed))
            and _seconds(_attribute(each, "retry_after_s"))
        )
        for each in _causes(error)
    )
    return asked_delay_s(error) if limited else None


def asked_delay_s(error: BaseException) -> float | None:
    """In how many seconds to call the service again; None if it does not say.

    It stands in ``retry_after_s``, or in the header Retry-After of the response, of the error or
    of what it was raised from; the first that can be read counts.
    """
    asked = chain.from_iterable(map(_asked, _causes(error)))
    return next((seconds for seconds in asked if seconds is not None), None)


def _asked(error: BaseException) -> Iterator[float | None]:
    yield _seconds(_attribute(error, "retry_after_s"))
    for holder in (_attribute(error, "response"), error):
        yield _retry_after_s(_header(_attribute(holder, "headers")))


def _header(headers: Any) -> Any:
    """The value of Retry-After; some mappings of headers know names in one case only."""
    try:
        pairs = headers.items() if hasattr(headers, "items") else headers or ()
        found = (value for name, value in pairs if _lower(name) == "retry-after")
        value = next(found, None)
    except Exception:  # noqa: BLE001 - they are of others' classes
        return None
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _lower(name: Any) -> str:
    return name.decode("latin-1").lower() if isinstance(name, bytes) else str(name).lower()


def _retry_after_s(value: Any) -> float | None:
    """Seconds or an HTTP date."""
    if not isinstance(value, str):
        return _seconds(value)
    if _NUMBER.fullmatch(value):
        return _seconds(float(value))
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _seconds(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time())


def _seconds(value: Any) -> float | None:
    """A positive, bounded delay; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    bounded = min(value, MAX_ASKED_DELAY_S)
    return float(bounded) if bounded > 0 else None  # Not for NaN.


def retry_delay_s(error: BaseException, base_s: float, failures: int) -> float:
    """Doubles with each failure, with jitter so that a fleet does not retry all at once."""
    backoff_s = delay_s(failures + 1, base_s, MAX_RETRY_DELAY_S)
    jittered_s = backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return max(jittered_s, asked_delay_s(error) or 0.0)


def error_record(error: BaseException, redactor: Redactor) -> dict[str, Any]:
    """``{type, message, traceback}``, with ``permanent: true`` where the set-up failed.

    The traceback begins at the agent's code; our errors have none.
    """
    return {
        "type": error_kind(error),
        "message": redactor.text(error_text(error))[:MAX_ERROR_CHARS],  # In this order.
        "traceback": _traceback_of(error),
        **({"permanent": True} if is_permanent(error) else {}),
    }


def error_kind(error: BaseException) -> str:
    """The name of its type, where it was raised."""
    return error.kind if isinstance(error, AgentFailed) else type(error).__name__


def error_text(error: BaseException) -> str:
    """The error's message, even if its ``__str__`` raises."""
    if isinstance(error, asyncio.CancelledError):
        return "the agent cancelled itself"
    try:
        return str(error).encode(errors="replace").decode()
    except BaseException:  # noqa: BLE001 - it is the agent's code, and may even exit
        return "its message cannot be shown: __str__ raises"


def _traceback_of(error: BaseException) -> str | None:
    if isinstance(error, AgentFailed):
        return error.traceback
    own = isinstance(error, AgentpipeError) and not isinstance(error, InfraError)
    return None if own else _traceback(error)


def _traceback(error: BaseException) -> str | None:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OUR_FOLDER):
        frames = frames.tb_next  # The agent's code begins below ours.
    try:
        text = "".join(traceback.format_tb(frames))
    except Exception:  # noqa: BLE001 - linecache reads the agent's files
        return None
    return text[-MAX_ERROR_CHARS:].encode(errors="replace").decode() or None
