"""Watch: sees what MCP-Universe's agents hide, and ends what cannot be cancelled.

Its LLM classes answer None, or an error's text, once their own tries are used up; a client of a
dead MCP server feeds the model error texts. So the LLM calls, their HTTP requests, their pauses
and the calls of tools are wrapped, once per process: ``install``.

Within an LLM call MCP-Universe's tries go on, with the pauses that they choose, until
``PATIENCE_S`` is over or the failure is one that no repetition mends. Then an ``LlmFailedError``
ends the whole run.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .failure import (
    CancelledRunError,
    LlmFailedError,
    ServerLostError,
    asked_delay_s,
    error_record,
    is_infra,
    is_infra_status,
    retry_after_s,
)
from .usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

# How long one LLM call may go on trying; then the task is tried again as a whole.
PATIENCE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 20.0
MAX_BODY_CHARS = 500
MAX_CHAIN = 20

_real_sleep = time.sleep
_call: ContextVar[_Call | None] = ContextVar("call", default=None)
# A context variable, so that what a run left behind goes on under its own watch.
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


class Watch:
    """What is known of one run.

    Attributes:
        stop: Set to end the run's LLM calls and pauses.
        usage: What its LLM calls cost.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.usage = Usage()
        self.failure: LlmFailedError | None = None
        self._silent = False
        self._lost: dict[str, BaseException] = {}

    def begin(self) -> None:
        """Watch what this asyncio task, and what it starts, does from now on."""
        _watch.set(self)

    def end(self) -> None:
        """Let this asyncio task go on unwatched."""
        _watch.set(None)

    def said(self, answer: Any) -> None:
        """An LLM call ended; with None, it said nothing."""
        self._silent = answer is None

    def tool_called(self, server: str, error: BaseException | None) -> None:
        """A tool answered, with an error of its own perhaps; or its server is gone."""
        self._lost.pop(server, None)
        if error is not None and _is_loss(error):
            self._lost[server] = error

    def check(self) -> None:
        """Raise what makes the agent's answer none.

        Raises:
            LlmFailedError: An LLM call failed for good, or the last one gave nothing.
            ServerLostError: An MCP server went away and did not come back.
        """
        if self.failure is not None:
            raise self.failure
        if self._silent:
            raise LlmFailedError("the LLM gave no content", infra=False)
        for server, error in self._lost.items():
            raise ServerLostError(f"MCP server {server} went away: {error}") from error


class _Call:
    """One LLM call, with all its tries, in one thread."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.failure: LlmFailedError | None = None
        self._until = time.monotonic() + PATIENCE_S
        self._pauses = 0

    def failed(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"
        self.failure = LlmFailedError(
            text, infra=is_infra(error), retry_after_s=retry_after_s(error)
        )
        self.failure.__cause__ = error

    def responded(self, status: int, headers: Any, body: Any) -> None:
        if status < 400:  # noqa: PLR2004 - HTTP's errors
            self.failure = None
            self.watch.usage.add(body)
            return
        text = f"the LLM answered HTTP {status}: {body}"[:MAX_BODY_CHARS]
        infra, asked = is_infra_status(status), asked_delay_s(headers)
        self.failure = LlmFailedError(text, infra=infra, retry_after_s=asked)

    def go_on(self) -> None:
        if self.watch.stop.is_set():
            raise CancelledRunError("the run was cancelled")

    def pause(self, asked_s: float | None = None) -> None:
        """Sleep before another try, where one is worth it."""
        self.go_on()
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._pauses)
        self._pauses += 1
        if asked_s is not None:
            pause_s = min(LONGEST_PAUSE_S, asked_s)
        if self.failure is not None:
            pause_s = max(pause_s, self.failure.retry_after_s or 0.0)
            if not self.failure.infra or time.monotonic() + pause_s > self._until:
                raise self.failure
        self.watch.stop.wait(pause_s)
        self.go_on()


def install() -> None:
    """Wrap it all, once; what is in no run is left as it was."""
    import httpx
    import requests
    from mcpuniverse.llm.base import BaseLLM
    from mcpuniverse.mcp.client import MCPClient

    BaseLLM.generate = _generating(BaseLLM.generate)
    BaseLLM.generate_async = _generate_async
    httpx.Client.send = _sending(httpx.Client.send)
    requests.Session.send = _sending(requests.Session.send)
    MCPClient.execute_tool = _executing_tool(MCPClient.execute_tool)
    setattr(time, "sleep", _sleep)  # noqa: B010 - no type checker lets a function be replaced


def _generating(generate: Callable[..., Any]) -> Callable[..., Any]:
    def watched(llm: Any, *args: Any, **kwargs: Any) -> Any:
        watch = _watch.get()
        if watch is None:
            return generate(llm, *args, **kwargs)
        call = _Call(watch)
        token = _call.set(call)
        try:
            answer = _persist(call, lambda: generate(llm, *args, **kwargs))
        except LlmFailedError as failure:
            watch.failure = failure
            _trace(kwargs.get("tracer"), llm, failure)
            raise
        finally:
            _call.reset(token)
        watch.said(answer)
        return answer

    return watched


def _persist(call: _Call, attempt: Callable[[], Any]) -> Any:
    while True:
        call.go_on()
        try:
            answer = attempt()
        except Exception as error:  # noqa: BLE001 - each provider raises its own
            _caught(call, error)
        else:
            if answer is not None or call.failure is None:
                return answer
        call.pause()


def _caught(call: _Call, error: Exception) -> None:
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


async def _generate_async(llm: Any, messages: Any = None, **kwargs: Any) -> Any:
    """In a thread, with the tries of ``_persist``.

    MCP-Universe's own begins another try after 60 seconds while the first goes on, and is paid.
    """
    from .threads import in_thread

    for name in ("retries", "retry_delay", "timeout"):
        kwargs.pop(name, None)
    return await in_thread(lambda: llm.generate(messages=messages, **kwargs))


def _sending(send: Callable[..., Any]) -> Callable[..., Any]:
    def watched(session: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call.get()
        if call is None:
            return send(session, *args, **kwargs)
        call.go_on()
        try:
            response = send(session, *args, **kwargs)
        except Exception as error:
            call.failed(error)
            raise
        call.responded(response.status_code, response.headers, _body(response))
        return response

    return watched


def _body(response: Any) -> Any:
    try:
        return response.json()
    except Exception:  # noqa: BLE001 - no JSON, or a stream that is not read yet
        return None


def _executing_tool(execute: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(client: Any, *args: Any, **kwargs: Any) -> Any:
        watch = _watch.get()
        try:
            result = await execute(client, *args, **kwargs)
        except Exception as error:
            if watch is not None:
                watch.tool_called(client.id, error)
            raise
        if watch is not None:
            watch.tool_called(client.id, None)
        return result

    return watched


def _is_loss(error: BaseException) -> bool:
    """Whether the server is gone; a slow or failing tool is the model's matter."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None and len(chain) < MAX_CHAIN:
        chain.append(chain[-1].__cause__)
    if any(isinstance(each, TimeoutError) for each in chain):
        return False
    return is_infra(error) or any("Connection closed" in str(each) for each in chain)


def _sleep(seconds: float) -> None:
    call, watch = _call.get(), _watch.get()
    if call is not None:
        call.pause(seconds)
    elif watch is None:
        _real_sleep(seconds)
    elif watch.stop.wait(seconds):
        raise CancelledRunError("the run was cancelled")
