"""PlainActor: runs a plain Dramatiq actor in a worker."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.asyncio import EventLoopThread, async_to_sync
from dramatiq.middleware import TimeLimitExceeded as DramatiqsTimeLimit

from agentpipe.core.agent_thread import RunContinues, RunInterrupted, end_run
from agentpipe.core.json_values import checked_answer
from agentpipe.core.loop_turns import done_within
from agentpipe.errors import AgentFailed
from agentpipe.errors import TimeLimitExceeded as OurTimeLimit
from agentpipe.worker.running.plain_failures import option

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dramatiq.middleware import Interrupt

    from agentpipe.worker.running.message import ClaimedMessage

# Time for a cancelled run to clean up before it is abandoned.
CANCEL_GRACE_S = 1.0

log = logging.getLogger(__name__)


async def _nothing() -> None:
    """Do nothing; wrapped below to find Dramatiq's wrapper code."""


_OF_ASYNC_ACTORS = async_to_sync(_nothing).__code__


class TimeLimitExceeded(OurTimeLimit, DramatiqsTimeLimit):
    """Our error, also caught where ``throws`` or ``retry_when`` names Dramatiq's."""


class WorkersLoop(EventLoopThread):
    """Runs coroutines of actors that are called as functions, on the worker's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(log)
        self.loop.close()
        self.loop, self._in = loop, threading.get_ident()

    def run_coroutine(self, coro: Awaitable[Any]) -> Any:
        """Return its result; on the loop's own thread, return the coroutine to await."""
        if threading.get_ident() == self._in:
            return coro
        return super().run_coroutine(coro)


def coroutine_function(actor: dramatiq.Actor[..., Any]) -> Callable[..., Any] | None:
    """The actor's async function, if calling it directly bypasses no user code."""
    if type(actor).__call__ is not dramatiq.Actor.__call__:
        return None
    function: Any = actor.fn
    wrapped = getattr(function, "__code__", None) is _OF_ASYNC_ACTORS
    return function.__wrapped__ if wrapped else None


@dataclass(frozen=True, slots=True)
class _Returned:
    """Wraps a call's value: a thread would itself run a coroutine that the call returned."""

    value: Any


async def perform(actor: dramatiq.Actor[..., Any], message: ClaimedMessage) -> Any:
    """Run the actor with the message within its time limit; return JSON.

    Raises:
        TimeLimitExceeded: It took too long and was interrupted.
        RunContinues: Replaces a CancelledError if the run does not end within its grace.
        AnswerError: It returned a value that JSON cannot hold.
        BaseException: Whatever the actor raises.
    """
    limit_s = time_limit_s(actor, message)
    run = asyncio.ensure_future(_call(actor, message))
    try:
        done = await done_within(run, limit_s)
    except asyncio.CancelledError:
        if not await _end(run, message):
            raise RunContinues(_is_over(run, message)) from None
        raise
    if not done:
        await _end(run, message, DramatiqsTimeLimit)
        if not _returned(run):  # It can catch the exception and still return.
            raise TimeLimitExceeded(limit_s)
    return checked_answer(run.result())[0]


def time_limit_s(actor: dramatiq.Actor[..., Any], message: ClaimedMessage) -> float:
    """The message's limit, or its actor's; infinite if neither is set."""
    return seconds(option(message, actor, "time_limit"))


def seconds(limit_ms: float | None) -> float:
    """Convert milliseconds to seconds; None becomes infinite."""
    return math.inf if limit_ms is None else limit_ms / 1000


async def _call(actor: dramatiq.Actor[..., Any], message: ClaimedMessage) -> Any:
    try:
        if function := coroutine_function(actor):
            return await function(*message.args, **message.kwargs)
        assert message.thread is not None
        call = partial(actor, *message.args, **message.kwargs)
        returned = await message.thread.call(lambda: _Returned(call()), message.context)
        value = returned.value
        while inspect.isawaitable(value):  # From a plain function around an async one.
            value = await value
    except (SystemExit, KeyboardInterrupt) as error:
        # Unwrapped, these would stop the worker's loop.
        kind = type(error).__name__
        raise AgentFailed(f"the actor raised {kind}", kind=kind) from error
    return value


async def _end(
    run: asyncio.Future[Any], message: ClaimedMessage, kind: type[Interrupt] = RunInterrupted
) -> bool:
    who = f"actor {message.actor_name}"
    return await end_run(run, message.thread, CANCEL_GRACE_S, who, kind)


def _returned(run: asyncio.Future[Any]) -> bool:
    return run.done() and not run.cancelled() and run.exception() is None


def _is_over(run: asyncio.Future[Any], message: ClaimedMessage) -> Callable[[], bool]:
    thread = message.thread
    return run.done if thread is None else lambda: not thread.is_busy
