"""Failures: whether a service or the agent failed, when to try again, and how an error is told."""

from __future__ import annotations

import asyncio
import random
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.errors import AgentFailed, AgentpipeError, InfraError

if TYPE_CHECKING:
    from agentpipe.redactor import Redactor

MAX_RETRY_DELAY_S = 300.0
MAX_ASKED_DELAY_S = 86_400.0
MAX_ERROR_CHARS = 4_000
OUR_FOLDER = str(Path(__file__).parent)
TOO_BUSY = frozenset({408, 429})
SERVER_ERRORS = range(500, 600)
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


def is_infra(error: BaseException | None) -> bool:
    """Whether a service failed, not the agent: judged by type, HTTP status, name, or cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # Causes may go in a circle.
        if isinstance(error, BaseExceptionGroup):
            return all(is_infra(each) for each in error.exceptions)
        if isinstance(error, (InfraError, ConnectionError, TimeoutError)):
            return True
        if isinstance(error, AgentFailed):
            return error.infra
        status = _status(error)
        if status in TOO_BUSY or status in SERVER_ERRORS:
            return True
        named = any(kind.__name__ in TRANSPORT_ERRORS for kind in type(error).__mro__)
        if named and status is None:  # With a status, a server did answer.
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


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


def retry_delay_s(error: BaseException, base_s: float, failures: int) -> float:
    """Doubling with each failure, with jitter so that a fleet does not come back at once."""
    delay_s = min(MAX_RETRY_DELAY_S, base_s * 2.0**failures) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    asked = _attribute(error, "retry_after_s")
    if not isinstance(asked, (int, float)):
        return delay_s
    return max(delay_s, min(float(asked), MAX_ASKED_DELAY_S))


def error_record(error: BaseException, redactor: Redactor) -> dict[str, Any]:
    """``{type, message, traceback}``; the traceback begins at the agent's code, ours have none."""
    return {
        "type": error_kind(error),
        "message": redactor.text(error_text(error))[:MAX_ERROR_CHARS],  # In this order.
        "traceback": _traceback_of(error),
    }


def error_kind(error: BaseException) -> str:
    """The name of its type, where it was raised."""
    return error.kind if isinstance(error, AgentFailed) else type(error).__name__


def error_text(error: BaseException) -> str:
    """The error's message, though its ``__str__`` be hostile."""
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
