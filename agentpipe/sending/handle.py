"""Handle: returned by ``Dispatcher.send``: the task's id, with access to its result."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Generator

    from agentpipe.core.result import Result
    from agentpipe.sending.pending import Pending
    from agentpipe.sending.result_reader import ResultReader

RESULT_TIMEOUT_S = 60.0


class Handle(str):
    """A sent task: its id, with its result to wait for.

    It is a ``str`` because ``send`` has always returned the id: a handle works as a key, in JSON
    and in comparisons. Pickled or copied, it becomes the plain id::

        sent = dispatcher.send("adder", {"question": "2 and 2?"})
        sent.result(timeout_s=60)  # in a thread
        await sent  # in a coroutine of any loop
        await asyncio.gather(*handles)

    One thread of the dispatcher reads for all its handles. The result stays in memory while the
    handle exists.
    """

    __slots__ = ("__weakref__", "_pending", "_reader")

    _pending: Pending
    _reader: ResultReader | None

    def __new__(cls, pending: Pending, reader: ResultReader | None) -> Self:
        """The handle of ``pending``, for which ``reader`` reads."""
        handle = super().__new__(cls, pending.task_id)
        handle._pending, handle._reader = pending, reader
        return handle

    @property
    def task_id(self) -> str:
        """The id as a plain string."""
        return str(self)

    def result(self, timeout_s: float | None = RESULT_TIMEOUT_S) -> Result:
        """Wait for the result, whatever its outcome; None for ``timeout_s`` waits without limit.

        Raises:
            ResultTimeout: It did not come in time; the message says where the task is.
            NoResult: It will not come: the sink refuses it, or the dispatcher was closed.
        """
        reader, settled = self._wanted(), threading.Event()
        self._pending.call(settled.set)
        try:
            if not settled.wait(timeout_s) and not self._pending.is_settled:
                raise reader.timeout(self.task_id, timeout_s or 0)
        finally:
            self._pending.forget(settled.set)
        return self._pending.get()

    def __await__(self) -> Generator[Any, None, Result]:
        """Like ``result`` without a timeout: ``async with asyncio.timeout(60)`` sets one."""
        return self._arrival().__await__()

    async def _arrival(self) -> Result:
        import asyncio  # Imported here: a process that only sends does not need it.

        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        callback = _in_loop(loop, arrived)
        self._pending.call(callback)
        self._wanted()
        try:
            await arrived
        finally:
            self._pending.forget(callback)
        return self._pending.get()

    def _wanted(self) -> ResultReader:
        if self._reader is None:
            raise ConfigError(
                "this dispatcher reads no results: make one with Dispatcher.open(collections, "
                "settings), or read the stream"
            )
        self._reader.want(self._pending)
        return self._reader

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def _in_loop(loop: AbstractEventLoop, future: Future[None]) -> Callable[[], None]:
    def end() -> None:
        if not future.done():  # It was cancelled meanwhile.
            future.set_result(None)

    def callback() -> None:
        with suppress(RuntimeError):  # The loop was closed meanwhile.
            loop.call_soon_threadsafe(end)

    return callback
