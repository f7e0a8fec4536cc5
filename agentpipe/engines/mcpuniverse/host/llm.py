"""LLM calls: limits MCP-Universe's own retries, and ends the whole run when they fail.

Within a call, the SDKs and MCP-Universe retry with their own pauses, until ``PATIENCE_S`` after the
first failure, or until a retry cannot help. Then an ``LlmFailedError`` passes through all code that
would turn it into an answer.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .failure import (
    LlmFailedError,
    error_record,
    header_delay_s,
    headers_of_limits,
    is_infra,
    is_infra_status,
    is_keyless,
    is_limited_answer,
    is_permanent,
    is_permanent_answer,
    is_rate_limited,
    limit_headers,
    retry_after_s,
)
from .monitor import current_monitor
from .threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .monitor import Monitor

# In longer outages the whole task is retried.
PATIENCE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 20.0
# More than the worker shows, because it masks a text before it cuts it.
MAX_BODY_CHARS = 20_000

_current: ContextVar[LlmCall | None] = ContextVar("call", default=None)


class LlmCall:
    """An LLM call with all its retries, in one thread."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.failure: LlmFailedError | None = None
        self._until: float | None = None
        self._pauses = 0

    def failed(self, error: BaseException) -> None:
        """Record a request without a response."""
        text, delay_s = f"{type(error).__name__}: {error}", retry_after_s(error)
        self.failure = LlmFailedError(
            text,
            infra=is_infra(error),
            retry_after_s=delay_s,
            permanent=is_permanent(error) or is_keyless(error),
            rate_limited=is_rate_limited(error),
            headers=limit_headers(error),
        )
        self.failure.__cause__ = error

    def responded(self, response: Any) -> None:
        """Record a response, which can be an error."""
        if response.status_code < 400:  # noqa: PLR2004 - HTTP's errors
            self.failure = None
            self.monitor.usage.add(_body(response))
            return
        body = _body(response)
        text = f"the LLM answered HTTP {response.status_code}: {body}"
        self.failure = LlmFailedError(
            text[:MAX_BODY_CHARS],
            infra=is_infra_status(response.status_code),
            retry_after_s=header_delay_s(response.headers),
            permanent=is_permanent_answer(response.status_code, body),
            rate_limited=is_limited_answer(response.status_code, body),
            headers=headers_of_limits(response.headers),
        )

    def pause(self, requested_s: float | None = None) -> None:
        """Sleep before a retry.

        Raises:
            LlmFailedError: A retry cannot help, or ``PATIENCE_S`` have passed.
            CancelledRunError: The run was cancelled.
        """
        self.monitor.raise_if_cancelled()
        pause_s = FIRST_PAUSE_S * 2.0**self._pauses if requested_s is None else requested_s
        pause_s = min(LONGEST_PAUSE_S, pause_s)
        self._pauses += 1
        if self.failure is not None:
            pause_s = max(pause_s, self.failure.retry_after_s or 0.0)
            self._give_up_before(time.monotonic() + pause_s, self.failure)
        self.monitor.pause(pause_s)

    def _give_up_before(self, next_try: float, failure: LlmFailedError) -> None:
        if self._until is None:
            self._until = time.monotonic() + PATIENCE_S
        if not failure.infra or failure.permanent or next_try > self._until:
            raise failure


def current_call() -> LlmCall | None:
    """The LLM call that runs this code, if any."""
    return _current.get()


def patched_generate(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``BaseLLM.generate``."""

    def wrapper(llm: Any, *args: Any, **kwargs: Any) -> Any:
        monitor = current_monitor()
        if monitor is None:
            return generate(llm, *args, **kwargs)
        call = LlmCall(monitor)
        token = _current.set(call)
        try:
            answer = _retry(call, lambda: generate(llm, *args, **kwargs))
        except LlmFailedError as failure:
            monitor.failure = failure
            _trace(kwargs.get("tracer"), llm, failure)
            raise
        finally:
            _current.reset(token)
        monitor.llm_answered(answer)
        return answer

    return wrapper


async def generate_async(llm: Any, messages: Any = None, **kwargs: Any) -> Any:
    """Replace ``BaseLLM.generate_async``.

    MCP-Universe's own version starts a second request after 60 seconds, while the first continues
    and costs money.
    """
    for name in ("retries", "retry_delay", "timeout"):
        kwargs.pop(name, None)
    return await in_thread(lambda: llm.generate(messages=messages, **kwargs))


def _retry(call: LlmCall, attempt: Callable[[], Any]) -> Any:
    while True:
        call.monitor.raise_if_cancelled()
        try:
            answer = attempt()
        except Exception as error:  # noqa: BLE001 - each provider raises its own
            _record(call, error)
        else:
            if answer is not None or call.failure is None:
                return answer
        call.pause()


def _record(call: LlmCall, error: Exception) -> None:
    """Record the error as the failure, unless a failed HTTP request is already recorded."""
    if call.failure is not None:
        return
    hidden = error.__context__
    # `generate` of 1.1.3 raises UnboundLocalError while it reports another error.
    masked = isinstance(error, UnboundLocalError) and hidden is not None
    call.failed(hidden if masked and hidden is not None else error)


def _trace(tracer: Any, llm: Any, failure: LlmFailedError) -> None:
    """Record a failed call in the format that MCP-Universe uses."""
    if tracer is None:
        return
    with tracer.sprout() as span:
        config = llm.config.to_dict()
        call = {"class": type(llm).__name__, "config": config, "messages": [], "response": ""}
        span.add({"type": "llm", **call, "error": error_record(failure)["message"]})


def _body(response: Any) -> Any:
    try:
        return response.json()
    except Exception:  # noqa: BLE001 - not JSON, or an unread stream
        return None
