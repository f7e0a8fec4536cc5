"""Decides whether a service or the agent failed, and builds the error record for the parent.

It mirrors ``agentpipe.core.failures``, which is not available in this Python.
"""

from __future__ import annotations

import email.utils
import errno
import re
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# More than the worker shows, because it masks a text before it cuts it.
MAX_TEXT = 20_000
TOO_BUSY = frozenset({408, 409, 425, 429})
# A refused credential, or a used-up quota.
SET_UP_STATUSES = frozenset({401, 402, 403})
NO_SUCH_MODEL = 404
SET_UP_CODES = frozenset(
    {
        "account_deactivated",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_quota",
        "invalid_api_key",
        "model_not_found",
    }
)
RATE_LIMIT_STATUSES = frozenset({429, 529})
RATE_LIMIT_CODE = re.compile(
    "rate.?limit|too.?many.?requests|throttl|resource_exhausted|overloaded_error"
)
# Response headers that tell the parent when to retry.
LIMIT_HEADER = re.compile(r"retry-after(-ms)?|.{0,40}rate-?limit.{0,40}(reset|remaining).{0,40}")
MAX_HEADER = 100
NO_PROGRAM = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP}
)
EXHAUSTED = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files of the machine",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk quota",
    errno.ENOBUFS: "network buffers",
}
NO_KEY = "Could not resolve authentication method"
NO_THREAD = "can't start new thread"
# By class name, so that none of these libraries has to be imported.
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
    """The LLM call failed for good.

    Not an ``Exception``, because MCP-Universe's agents catch those and answer with their text.
    """

    def __init__(
        self,
        text: str,
        *,
        infra: bool,
        retry_after_s: float | None = None,
        permanent: bool = False,
        rate_limited: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.infra, self.retry_after_s = infra or permanent or rate_limited, retry_after_s
        self.permanent, self.rate_limited = permanent, rate_limited and not permanent
        self.headers = headers or {}


class CancelledRunError(BaseException):
    """The run was cancelled. Not an ``Exception``, for the same reason as ``LlmFailedError``."""


class ServersFailedError(Exception):
    """MCP servers cannot be started; ``__cause__`` has the reason.

    Permanent unless a service or the machine failed: a program that fails to start will fail again.
    """

    @property
    def permanent(self) -> bool:
        """Whether the cause is not a failed service."""
        return self.__cause__ is not None and not is_infra(self.__cause__)


class ServerLostError(ConnectionError):
    """An MCP server was lost during a run."""


def error_record(error: BaseException) -> dict[str, Any]:
    """Build the error for the parent: its text, and whether a service or the set-up failed."""
    cancelled = isinstance(error, CancelledRunError)
    name = {"CancelledRunError": "Cancelled", "LlmFailedError": "LlmFailed"}
    return {
        "type": name.get(type(error).__name__, type(error).__name__),
        "message": _text(error),
        "traceback": None if cancelled else _traceback(error),
        "infra": is_infra(error),
        "permanent": is_permanent(error),
        "shortage": shortage_of(error),
        "retry_after_s": retry_after_s(error),
        "rate_limited": is_rate_limited(error),
        "headers": limit_headers(error),
    }


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except Exception:  # noqa: BLE001 - errors of other packages
        return "its message cannot be shown: __str__ raises"


def is_infra(error: BaseException) -> bool:
    """Whether a service or the set-up failed, rather than the agent."""
    failed = any(_is_infra(each) for each in _causes(error))
    known = is_permanent(error) or is_rate_limited(error)
    return failed or known or bool(shortage_of(error))


def is_permanent(error: BaseException) -> bool:
    """Whether the set-up failed, so that a retry cannot help."""
    return not shortage_of(error) and any(_is_permanent(each) for each in _causes(error))


def _is_permanent(error: BaseException) -> bool:
    if isinstance(error, (LlmFailedError, ServersFailedError)):
        return error.permanent
    if SET_UP_CODES & _codes_of(error):
        return True
    return isinstance(error, ImportError) or status_of(error) in SET_UP_STATUSES


def is_rate_limited(error: BaseException) -> bool:
    """Whether a credential's rate limit was hit, without its quota being used up."""
    limited = any(_is_rate_limited(each) for each in _causes(error))
    return limited and not is_permanent(error)


def _is_rate_limited(error: BaseException) -> bool:
    if isinstance(error, LlmFailedError):
        return error.rate_limited
    return is_limited_answer(status_of(error), None) or _name_a_limit(_codes_of(error))


def is_limited_answer(status: int | None, body: Any) -> bool:
    """Whether an LLM's response reports a rate limit."""
    return status in RATE_LIMIT_STATUSES or _name_a_limit(_codes_in(body))


def _name_a_limit(codes: set[str]) -> bool:
    return any(RATE_LIMIT_CODE.search(code) for code in codes)


def _codes_of(error: BaseException) -> set[str]:
    own = {name: getattr(error, name, None) for name in ("code", "type")}
    return _codes_in(own) | _codes_in(getattr(error, "body", None))


def _codes_in(body: Any) -> set[str]:
    """Codes and types in a service's error, in lower case."""
    if not isinstance(body, dict):
        return set()
    named = (body.get("code"), body.get("type"), body.get("status"))
    return {code.lower() for code in named if isinstance(code, str)} | _codes_in(body.get("error"))


def is_keyless(error: BaseException) -> bool:
    """Whether an SDK reports a missing key."""
    return type(error).__name__ == "OpenAIError" or _text(error).startswith(NO_KEY)


def shortage_of(error: BaseException) -> str:
    """The resource that the machine ran out of, such as threads; empty if none."""
    return next(filter(None, map(_shortage_of, _causes(error))), "")


def _shortage_of(error: BaseException) -> str:
    if isinstance(error, OSError):
        return EXHAUSTED.get(error.errno or 0, "")
    if isinstance(error, RuntimeError):
        return "threads" if NO_THREAD in _text(error) else ""
    return "memory" if isinstance(error, MemoryError) else ""


def _is_infra(error: BaseException) -> bool:
    if isinstance(error, LlmFailedError):
        return error.infra
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = status_of(error)
    if status is not None:  # A server answered.
        return is_infra_status(status)
    return any(kind.__name__ in TRANSPORT_ERRORS for kind in type(error).__mro__)


def set_up_failed(error: BaseException) -> dict[str, Any]:
    """The ``error_record`` of an agent that cannot be built: permanent unless a service failed."""
    record = error_record(error)
    failed = {"infra": True, "permanent": not record["infra"] or record["permanent"]}
    return {**record, **failed}


def is_permanent_answer(status: int, body: Any) -> bool:
    """Whether an LLM's response refuses the key or the model, or reports a used-up quota."""
    refused = status in SET_UP_STATUSES or status == NO_SUCH_MODEL
    return refused or bool(SET_UP_CODES & _codes_in(body))


def is_infra_status(status: int) -> bool:
    """Whether an HTTP status means that the same request can succeed later."""
    return status in TOO_BUSY or status >= 500  # noqa: PLR2004 - HTTP's server errors


def status_of(error: BaseException) -> int | None:
    """The HTTP status, from where httpx, requests and the SDKs keep it."""
    response = getattr(error, "response", None)
    for holder, name in ((response, "status_code"), (error, "status_code"), (error, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and 100 <= status < 600:  # noqa: PLR2004 - HTTP's range
            return status
    return None


def retry_after_s(error: BaseException) -> float | None:
    """The delay that the service requested, if any."""
    for each in _causes(error):
        if isinstance(each, LlmFailedError):
            return each.retry_after_s
        delay_s = header_delay_s(getattr(getattr(each, "response", None), "headers", None))
        if delay_s is not None:
            return delay_s
    return None


def limit_headers(error: BaseException) -> dict[str, str]:
    """Headers of the response that tell the parent when to retry."""
    for each in _causes(error):
        headers = getattr(getattr(each, "response", None), "headers", None)
        found = each.headers if isinstance(each, LlmFailedError) else headers_of_limits(headers)
        if found:
            return found
    return {}


def headers_of_limits(headers: Any) -> dict[str, str]:
    """The headers that say when to retry; names are in lower case."""
    pairs = headers.items() if hasattr(headers, "items") else ()
    texts = {str(name).lower(): str(value)[:MAX_HEADER] for name, value in pairs}
    return {name: value for name, value in texts.items() if LIMIT_HEADER.fullmatch(name)}


def header_delay_s(headers: Any) -> float | None:
    """The delay in ``Retry-After``, given as seconds or as a date."""
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
    """Yield the error, its causes and members of groups, each once."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [*getattr(each, "exceptions", ()), *filter(None, [each.__cause__])]


def _traceback(error: BaseException) -> str | None:
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:  # noqa: BLE001 - messages of other packages' errors
        return None
    return text[-MAX_TEXT:]
