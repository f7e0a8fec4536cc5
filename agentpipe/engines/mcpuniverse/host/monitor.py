"""Monitor: records failures of one run that MCP-Universe's agents hide.

Its LLM classes return None or an error's text when their retries are used up. The client of a dead
MCP server passes error texts to the model. A judge that cannot reach its LLM calls the answer
wrong. The wrappers in ``llm`` and ``patches`` report these failures here.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

from .failure import CancelledRunError, LlmFailedError, ServerLostError, is_infra
from .usage import TokenCounts

MAX_CHAIN = 20


class Monitor:
    """Failures and usage of one run.

    Attributes:
        stop: Set to end the run's LLM calls and pauses.
        usage: Tokens of its LLM calls.
        failure: The final failure of an LLM.
        unanswered: Why the last HTTP request outside LLM calls failed.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.usage = TokenCounts()
        self.failure: BaseException | None = None
        self.unanswered: str | None = None
        self._empty = False
        self._lost: dict[str, BaseException] = {}

    def begin(self) -> None:
        """Start monitoring this asyncio task and all tasks that it starts."""
        _current.set(self)

    def end(self) -> None:
        """Stop monitoring this asyncio task."""
        _current.set(None)

    def raise_if_cancelled(self) -> None:
        """Check for cancellation in a thread, which asyncio's cancellation cannot reach.

        Raises:
            CancelledRunError: The run was cancelled.
        """
        if self.stop.is_set():
            raise CancelledRunError("the run was cancelled")

    def pause(self, seconds: float) -> None:
        """Sleep, unless the run is cancelled."""
        self.stop.wait(seconds)
        self.raise_if_cancelled()

    def llm_answered(self, answer: Any) -> None:
        """Record the end of an LLM call; None is an empty answer."""
        self._empty = answer is None

    def tool_called(self, server: str, error: BaseException | None) -> None:
        """Record the end of a tool call; an error can mean that the server is lost."""
        self._lost.pop(server, None)
        if error is not None and _is_loss(error):
            self._lost[server] = error

    def check(self) -> None:
        """Raise the failure that makes the agent's answer invalid, if any.

        Raises:
            BaseException: An LLM failed for good, or its last answer was empty.
            ServerLostError: An MCP server was lost and did not come back.
        """
        if self.failure is not None:
            raise self.failure
        if self._empty:
            raise LlmFailedError("the LLM gave an empty answer", infra=False)
        for server, error in self._lost.items():
            raise ServerLostError(f"MCP server {server} was lost: {error}") from error


# A context variable, so that an abandoned run keeps its own monitor.
_current: ContextVar[Monitor | None] = ContextVar("monitor", default=None)


def current_monitor() -> Monitor | None:
    """The monitor of the run that executes this code, if any."""
    return _current.get()


def _is_loss(error: BaseException) -> bool:
    """Whether the server is lost; the model handles slow or failing tools."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None and len(chain) < MAX_CHAIN:
        chain.append(chain[-1].__cause__)
    if any(isinstance(each, TimeoutError) for each in chain):
        return False
    return is_infra(error) or any("Connection closed" in str(each) for each in chain)
