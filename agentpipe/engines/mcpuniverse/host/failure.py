"""Errors: whether a service or the agent failed, and how that is told to the parent."""

from __future__ import annotations

import email.utils
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT = 4_000
TOO_BUSY = frozenset({408, 409, 425, 429})
# By name, so that none of these libraries has to be imported.
TRANSPORT_ERRORS = frozenset(
    {
        "APIConnectionError",
        "BrokenResourceError",
        "ClientConnectionError",
        "ClosedResourceError",
        "ConnectionError",
        "ServerDisconnectedError",
        "Timeout",
        "TimeoutException",
        "TransportError",
        "URLError",
        "gaierror",
    }
)


class LlmFailedError(BaseException):
    """The LLM gave no answer, for good.

    No ``Exception``: MCP-Universe's agents catch those, and make an answer of their text.
    """

    def __init__(self, text: str, *, infra: bool, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.infra, self.retry_after_s = infra, retry_after_s


class CancelledRunError(BaseException):
    """The run was told to end; no ``Exception``, for the same reason."""


class ServersFailedError(Exception):
    """MCP servers could not be started; ``__cause__`` says why."""


class ServerLostError(ConnectionError):
    """An MCP server went away in the middle of a run."""


def error_record(error: BaseException) -> dict[str, Any]:
    """An error as it goes to the parent."""
    cancelled = isinstance(error, CancelledRunError)
    name = {"CancelledRunError": "Cancelled", "LlmFailedError": "LlmFailed"}
    return {
        "type": name.get(type(error).__name__, type(error).__name__),
        "message": _text(error),
        "traceback": None if cancelled else _traceback(error),
        "infra": is_infra(error),
        "retry_after_s": retry_after_s(error),
    }


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except Exception:  # noqa: BLE001 - others' errors
        return "its message cannot be shown: __str__ raises"


def is_infra(error: BaseException) -> bool:
    """Whether a service failed, not the agent."""
    return any(_is_infra(each) for each in _causes(error))


def _is_infra(error: BaseException) -> bool:
    if isinstance(error, LlmFailedError):
        return error.infra
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = status_of(error)
    if status is not None:  # Then a server did answer.
        return is_infra_status(status)
    return any(kind.__name__ in TRANSPORT_ERRORS for kind in type(error).__mro__)


def is_infra_status(status: int) -> bool:
    """Whether an HTTP status says that the same request may succeed later."""
    return status in TOO_BUSY or status >= 500  # noqa: PLR2004 - HTTP's server errors


def status_of(error: BaseException) -> int | None:
    """The HTTP status as httpx and requests, or the SDKs keep it."""
    response = getattr(error, "response", None)
    for holder, name in ((response, "status_code"), (error, "status_code"), (error, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and 100 <= status < 600:  # noqa: PLR2004 - what HTTP has
            return status
    return None


def retry_after_s(error: BaseException) -> float | None:
    """What the service asked for, if it did."""
    for each in _causes(error):
        if isinstance(each, LlmFailedError):
            return each.retry_after_s
        asked = asked_delay_s(getattr(getattr(each, "response", None), "headers", None))
        if asked is not None:
            return asked
    return None


def asked_delay_s(headers: Any) -> float | None:
    """``Retry-After`` in either of its forms."""
    text = headers.get("retry-after") if headers is not None else None
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        return _until(text)


def _until(date: str) -> float | None:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, and what groups hold; their circles are cut."""
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [*getattr(each, "exceptions", ()), *filter(None, [each.__cause__])]


def _traceback(error: BaseException) -> str | None:
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:  # noqa: BLE001 - the texts of others' errors
        return None
    return text[-MAX_TEXT:]
