"""A thread for one agent, with an event loop if the agent needs one.

Plain functions and CPU-bound coroutines would block the worker's event loop. The thread is a
daemon: if it hangs in a system call, the process can still exit.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import Interrupt, raise_thread_exception

from agentpipe.core.failures import readable
from agentpipe.core.thread_marks import NO_RUN, MarkingExecutor, marked, run_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


log = logging.getLogger(__name__)


class RunInterrupted(Interrupt):
    """Raised inside an agent's thread to end its run; ``except Exception`` does not catch it."""


class RunContinues(asyncio.CancelledError):
    """A run was cancelled but its code continues.

    Attributes:
        is_over: Returns whether the code has ended by now; can be called from any thread.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.is_over = is_over
        super().__init__("the run continues after its cancellation")


@dataclass(slots=True, eq=False)
class _Call:
    """One call and its state.

    Attributes:
        exposed: Whether an exception can be raised in it now.
        interrupted: The exception type that ends it.
        ended: Whether its code has ended.
    """

    function: Callable[[], Any]
    report: Callable[[Any, BaseException | None], None]
    context: contextvars.Context
    task: asyncio.Task[Any] | None = None
    exposed: bool = False
    interrupted: type[Interrupt] | None = None
    ended: bool = False


class _Thread(threading.Thread):
    """A thread of an agent.

    Attributes:
        is_closed: Takes no more calls, and ends after those already queued.
    """

    is_closed = False


class AgentThread:
    """Runs calls in sequence until ``close``.

    ``around`` is entered and exited in the thread, before its first and after its last call.

    Attributes:
        thread: The thread itself.
    """

    def __init__(
        self, name: str, around: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._around = around
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._latest: _Call | None = None
        # Held while a call starts, ends or is interrupted: no exception may hit an ended call.
        self._lock = threading.Lock()
        self._runner: asyncio.Runner | None = None
        self.thread = _Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    async def call(
        self, function: Callable[[], Any], context: contextvars.Context | None = None
    ) -> Any:
        """Run ``function()`` in the thread; a coroutine that it returns runs there too.

        The call runs in ``context``, by default in a copy of the caller's context.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def report(value: Any, error: BaseException | None) -> None:
            with suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(_resolve, future, value, error)

        self._latest = _Call(function, report, context or contextvars.copy_context())
        self._calls.put(self._latest)
        return await future

    @property
    def is_busy(self) -> bool:
        """Whether the latest call waits or runs; can be read from any thread."""
        return self._latest is not None and not self._latest.ended

    @property
    def is_alive(self) -> bool:
        """Whether the thread can take calls: code that it ran may have ended it."""
        return self.thread.is_alive()

    def interrupt(self, kind: type[Interrupt] = RunInterrupted) -> None:
        """End the latest call: cancel a coroutine, raise ``kind`` in a function.

        A function in a system call gets the exception when the system call returns.
        """
        with self._lock:
            call = self._latest
            if call is None or call.interrupted:
                return
            call.interrupted = kind
            if call.task is not None:
                with suppress(RuntimeError):  # Its loop is closed.
                    call.task.get_loop().call_soon_threadsafe(call.task.cancel)
            elif call.exposed:
                raise_thread_exception(self.thread.ident, kind)  # type: ignore[no-untyped-call]  # Dramatiq has no types

    def close(self) -> None:
        """End the thread after the calls already queued."""
        self.thread.is_closed = True
        self._calls.put(None)

    def _run(self) -> None:
        with self._around():
            self._run_calls()
        if self._runner is not None:
            self._runner.close()

    def _run_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            value = error = None
            try:
                with marked(call.context.get(run_place, NO_RUN)):
                    value = self._perform(call)
            except BaseException as caught:  # noqa: BLE001 - raised in the caller
                error = readable(caught)
            call.ended = True
            call.report(value, error)

    def _perform(self, call: _Call) -> Any:
        try:
            self._expose(call)
            value = call.context.run(call.function)
        finally:
            self._cover(call)
        if inspect.isawaitable(value):
            value = self._loop().run(_awaited(call, value), context=call.context)
        return value

    def _expose(self, call: _Call) -> None:
        with self._lock:
            if call.interrupted:
                raise call.interrupted
            call.exposed = True

    def _cover(self, call: _Call) -> None:
        with self._lock:
            call.exposed = False
        for _ in range(2):
            pass  # A loop iteration raises an interruption that arrived just before.

    def _loop(self) -> asyncio.Runner:
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.get_loop().set_default_executor(MarkingExecutor())
        return self._runner


def join_closed(limit_s: float) -> None:
    """Wait for closed threads to end: the interpreter may crash if it exits while they do."""
    threads = (each for each in threading.enumerate() if isinstance(each, _Thread))
    _join([each for each in threads if each.is_closed], limit_s)


async def ended(threads: Iterable[AgentThread], limit_s: float) -> None:
    """Wait until these closed threads have ended."""
    waited_for = [each.thread for each in threads]
    await call_in_thread(lambda: _join(waited_for, limit_s))


def _join(threads: Iterable[threading.Thread], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


async def call_in_thread(function: Callable[[], Any]) -> Any:
    """Run ``function()`` in a separate thread."""
    try:
        return await run_in_thread(function)
    except RunContinues as error:  # asyncio.timeout recognizes only CancelledError itself.
        raise asyncio.CancelledError(str(error)) from None


async def run_in_thread(function: Callable[[], Any]) -> Any:
    """Run ``function()`` in a separate thread.

    Raises:
        RunContinues: Replaces CancelledError, because the thread needs a moment to end.
    """
    thread = AgentThread(getattr(function, "__name__", "call"))
    try:
        return await thread.call(function)
    except asyncio.CancelledError:
        thread.interrupt()
        raise RunContinues(lambda: not thread.is_busy) from None
    finally:
        thread.close()


async def end_run(
    run: asyncio.Future[Any],
    thread: AgentThread | None,
    grace_s: float,
    who: str,
    kind: type[Interrupt] = RunInterrupted,
) -> bool:
    """Cancel a run, in its thread if its code is there; return whether it has ended.

    A run that continues after the grace period is abandoned with a warning.
    """
    if thread is not None and thread.is_busy:
        thread.interrupt(kind)
    else:
        run.cancel()
    done, _ = await asyncio.wait({run}, timeout=grace_s)
    if not done:
        run.cancel()
        log.warning("%s: a run continues after its cancellation", who)
    elif not run.cancelled():
        run.exception()  # Retrieved, so that asyncio does not log it as lost.
    return bool(done)


async def _awaited(call: _Call, value: Any) -> Any:
    call.task = asyncio.current_task()
    if call.interrupted:
        raise asyncio.CancelledError
    return await value


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):  # A future rejects StopIteration.
        future.set_exception(RuntimeError(f"the agent raised {error!r}"))
    else:
        future.set_exception(error)
