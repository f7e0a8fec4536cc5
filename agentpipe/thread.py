"""AgentThread: a thread for one agent, with an event loop where the agent needs one.

Plain functions would block the worker's loop, and so do coroutines that compute. The thread
is a daemon: one that hangs in a system call cannot keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import Interrupt, raise_thread_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    _Report = Callable[[Any, BaseException | None], None]
    _Job = tuple[Callable[[], Any], contextvars.Context, _Report]


class RunInterrupted(Interrupt):
    """Raised inside an agent's thread when its run has to end; ``except Exception`` misses it."""


class AgentThread:
    """Runs calls one after the other; ``close`` lets it end once they are done."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._runner: asyncio.Runner | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], Any]) -> Any:
        """``function()`` in the thread; a coroutine that it returns runs there too."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def report(value: Any, error: BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future, value, error)

        self._jobs.put((function, contextvars.copy_context(), report))
        return await future

    def interrupt(self) -> None:
        """Ask the running call to end: a coroutine is cancelled, a function gets an exception.

        A function that sits in a system call notices only when that returns.
        """
        loop = self._runner.get_loop() if self._runner else None
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(_cancel_all, loop)
        elif self._thread.ident is not None and self._thread.is_alive():
            raise_thread_exception(self._thread.ident, RunInterrupted)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End after the calls that were made."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get()
                if job is None:
                    break
                self._perform(*job)
            except RunInterrupted:
                continue  # It came late, between two calls.
        if self._runner is not None:
            self._runner.close()

    def _perform(
        self,
        function: Callable[[], Any],
        context: contextvars.Context,
        report: _Report,
    ) -> None:
        try:
            value = context.run(function)
            if inspect.isawaitable(value):
                value = self._loop().run(_awaited(value), context=context)
        except BaseException as error:  # noqa: BLE001 - all of it belongs to the caller
            report(None, error)
        else:
            report(value, None)

    def _loop(self) -> asyncio.Runner:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner


async def call_in_thread(function: Callable[[], Any]) -> Any:
    """``function()`` in a thread for this one call."""
    thread = AgentThread(getattr(function, "__name__", "call"))
    try:
        return await thread.call(function)
    finally:
        thread.close()


async def _awaited(value: Any) -> Any:
    return await value


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):  # A future refuses it.
        future.set_exception(RuntimeError(f"the agent raised {error!r}"))
    else:
        future.set_exception(error)
