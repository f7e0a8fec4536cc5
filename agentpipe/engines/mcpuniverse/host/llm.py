"""LLM calls: MCP-Universe's own tries go on within limits; then the run ends, not the call.

Within a call the SDKs and MCP-Universe try again, with the pauses that they choose, until
``PATIENCE_S`` have passed since the first failure, or a failure is one that no repetition mends.
Then an ``LlmFailedError`` goes through all that would make an answer of it.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from . import monitor
from .failure import (
    LlmFailedError,
    asked_delay_s,
    error_record,
    is_infra,
    is_infra_status,
    retry_after_s,
)
from .threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .monitor import Watch

# Longer outages are for the pipeline, which tries the task again as a whole.
PATIENCE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 20.0
MAX_BODY_CHARS = 500

_current: ContextVar[Call | None] = ContextVar("call", default=None)


class Call:
    """One LLM call, with all its tries, in one thread."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.failure: LlmFailedError | None = None
        self._until: float | None = None
        self._pauses = 0

    def failed(self, error: BaseException) -> None:
        """A request got no answer."""
        text, asked_s = f"{type(error).__name__}: {error}", retry_after_s(error)
        self.failure = LlmFailedError(text, infra=is_infra(error), retry_after_s=asked_s)
        self.failure.__cause__ = error

    def responded(self, response: Any) -> None:
        """A request was answered, perhaps with an error."""
        if response.status_code < 400:  # noqa: PLR2004 - HTTP's errors
            self.failure = None
            self.watch.usage.add(_body(response))
            return
        text = f"the LLM answered HTTP {response.status_code}: {_body(response)}"
        self.failure = LlmFailedError(
            text[:MAX_BODY_CHARS],
            infra=is_infra_status(response.status_code),
            retry_after_s=asked_delay_s(response.headers),
        )

    def pause(self, asked_s: float | None = None) -> None:
        """Sleep before another try.

        Raises:
            LlmFailedError: None is worth it.
        """
        self.watch.go_on()
        pause_s = FIRST_PAUSE_S * 2.0**self._pauses if asked_s is None else asked_s
        pause_s = min(LONGEST_PAUSE_S, pause_s)
        self._pauses += 1
        if self.failure is not None:
            pause_s = max(pause_s, self.failure.retry_after_s or 0.0)
            self._give_up_before(time.monotonic() + pause_s, self.failure)
        self.watch.pause(pause_s)

    def _give_up_before(self, next_try: float, failure: LlmFailedError) -> None:
        if self._until is None:
            self._until = time.monotonic() + PATIENCE_S
        if not failure.infra or next_try > self._until:
            raise failure


def current() -> Call | None:
    """The LLM call that this code belongs to, if any."""
    return _current.get()


def generating(generate: Callable[..., Any]) -> Callable[..., Any]:
    """For ``BaseLLM.generate``."""

    def watched(llm: Any, *args: Any, **kwargs: Any) -> Any:
        watch = monitor.current()
        if watch is None:
            return generate(llm, *args, **kwargs)
        call = Call(watch)
        token = _current.set(call)
        try:
            answer = _persist(call, lambda: generate(llm, *args, **kwargs))
        except LlmFailedError as failure:
            watch.failure = failure
            _trace(kwargs.get("tracer"), llm, failure)
            raise
        finally:
            _current.reset(token)
        watch.said(answer)
        return answer

    return watched


async def generate_async(llm: Any, messages: Any = None, **kwargs: Any) -> Any:
    """For ``BaseLLM.generate_async``.

    MCP-Universe's own begins another try after 60 seconds while the first goes on, and is paid.
    """
    for name in ("retries", "retry_delay", "timeout"):
        kwargs.pop(name, None)
    return await in_thread(lambda: llm.generate(messages=messages, **kwargs))


def _persist(call: Call, attempt: Callable[[], Any]) -> Any:
    while True:
        call.watch.go_on()
        try:
            answer = attempt()
        except Exception as error:  # noqa: BLE001 - each provider raises its own
            _caught(call, error)
        else:
            if answer is not None or call.failure is None:
                return answer
        call.pause()


def _caught(call: Call, error: Exception) -> None:
    """Where no HTTP request failed, the error itself is the failure."""
    if call.failure is not None:
        return
    hidden = error.__context__
    # `generate` of 1.1.3 stumbles over its own report of an error.
    stumbled = isinstance(error, UnboundLocalError) and hidden is not None
    call.failed(hidden if stumbled and hidden is not None else error)


def _trace(tracer: Any, llm: Any, failure: LlmFailedError) -> None:
    """As MCP-Universe records an LLM call that failed."""
    if tracer is None:
        return
    with tracer.sprout() as span:
        config = llm.config.to_dict()
        told = {"class": type(llm).__name__, "config": config, "messages": [], "response": ""}
        span.add({"type": "llm", **told, "error": error_record(failure)["message"]})


def _body(response: Any) -> Any:
    try:
        return response.json()
    except Exception:  # noqa: BLE001 - no JSON, or a stream that is not read yet
        return None
