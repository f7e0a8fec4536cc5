"""SideThread: runs blocking calls for a coroutine, one at a time, in one thread.

A thread of an executor would delay the exit of its process while it waits for a record.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Calls: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


class SideThread:
    """A thread that starts with its first call and stops with ``end``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: Calls | None = None

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Queue a function; the future gets its result."""
        if self._calls is None:
            self._calls = SimpleQueue()
            run, calls = _run, (self._calls,)
            threading.Thread(target=run, args=calls, name=self._name, daemon=True).start()
        future: Future[T] = Future()
        self._calls.put((future, function))
        return future

    def end(self) -> None:
        """Stop the thread after the queued calls; a later call starts a new one."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _run(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        future, function = call
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
