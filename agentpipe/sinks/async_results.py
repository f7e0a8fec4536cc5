"""AsyncResults: asynchronous iteration over the results of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from agentpipe.core.result import Result
    from agentpipe.sinks.side_thread import SideThread


class AsyncResults:
    """Requests the next result in the stream's thread.

    If the caller is cancelled, its request stays open and the next caller gets the answer, so no
    result is lost. Without a next caller, the result stays uncommitted.
    """

    def __init__(self, results: Iterator[Result], thread: SideThread) -> None:
        self._results, self._thread = results, thread
        self._asked: Future[Result | None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        import asyncio  # Most readers do not need it.

        if self._asked is None:
            self._asked = self._thread.call(lambda: next(self._results, None))
        asked = self._asked
        result = await asyncio.shield(asyncio.wrap_future(asked))
        self._asked = None
        if result is None:
            raise StopAsyncIteration
        return result
