"""SideThread: runs what blocks for a coroutine, one call after the other, in one thread.

An executor's thread would keep its process from ending while it waits for a record.
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
    """Starts with its first call; ``end`` lets it go."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: Calls | None = None

    def call(self, function: Callable[[], T]) -> Future[T]:
        """What it returns, once its turn has come."""
        if self._calls is None:
            self._calls = SimpleQueue()
            run, calls = _run, (self._calls,)
            threading.Thread(target=run, args=calls, name=self._name, daemon=True).start()
        future: Future[T] = Future()
        self._calls.put((future, function))
        return future

    def end(self) -> None:
        """End it after the calls so far; a later call starts another."""
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
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
