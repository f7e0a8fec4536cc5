"""Watch: what is known of one run that MCP-Universe's agents would hide.

Its LLM classes answer None, or an error's text, once their own tries are used up; a client of a
dead MCP server feeds the model error texts; a judge that cannot reach its LLM calls the answer
wrong. What is wrapped, in ``llm`` and ``patches``, tells it here.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

from .failure import CancelledRunError, LlmFailedError, ServerLostError, is_infra
from .usage import Usage

MAX_CHAIN = 20


class Watch:
    """What is known of one run.

    Attributes:
        stop: Set to end the run's LLM calls and pauses.
        usage: What its LLM calls cost.
        failure: Of an LLM, for good.
        unanswered: Why the last HTTP request outside any LLM call got no proper answer.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.usage = Usage()
        self.failure: BaseException | None = None
        self.unanswered: str | None = None
        self._silent = False
        self._lost: dict[str, BaseException] = {}

    def begin(self) -> None:
        """Watch what this asyncio task, and what it starts, does from now on."""
        _current.set(self)

    def end(self) -> None:
        """Let this asyncio task go on unwatched."""
        _current.set(None)

    def go_on(self) -> None:
        """Let a thread go on that no cancellation reaches.

        Raises:
            CancelledRunError: It shall not.
        """
        if self.stop.is_set():
            raise CancelledRunError("the run was cancelled")

    def pause(self, seconds: float) -> None:
        """Sleep, unless the run is cancelled."""
        self.stop.wait(seconds)
        self.go_on()

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
            BaseException: An LLM failed for good, or its last answer was empty.
            ServerLostError: An MCP server went away and did not come back.
        """
        if self.failure is not None:
            raise self.failure
        if self._silent:
            raise LlmFailedError("the LLM gave no content", infra=False)
        for server, error in self._lost.items():
            raise ServerLostError(f"MCP server {server} went away: {error}") from error


# A context variable, so that what a run left behind goes on under its own watch.
_current: ContextVar[Watch | None] = ContextVar("watch", default=None)


def current() -> Watch | None:
    """The watch of the run that this code belongs to, if any."""
    return _current.get()


def _is_loss(error: BaseException) -> bool:
    """Whether the server is gone; a slow or failing tool is the model's matter."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None and len(chain) < MAX_CHAIN:
        chain.append(chain[-1].__cause__)
    if any(isinstance(each, TimeoutError) for each in chain):
        return False
    return is_infra(error) or any("Connection closed" in str(each) for each in chain)
