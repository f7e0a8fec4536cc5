"""Gets: pipelined requests for single messages; the server answers them in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from agentpipe.connections.amqp.arrivals import Delivery


@dataclass(slots=True)
class _Asked:
    """A group of requests with ``left`` answers outstanding."""

    queue: str
    left: int
    done: asyncio.Future[Any]
    found: list[Delivery] = field(default_factory=list)


class Gets:
    """The pending gets of one channel.

    Args:
        give_back: Called with the tag of each delivery whose caller has stopped waiting.
    """

    def __init__(self, give_back: Callable[[int], None]) -> None:
        self._give_back = give_back
        self._asked: deque[_Asked] = deque()

    @property
    def queue(self) -> str:
        """The queue of the oldest request."""
        return self._asked[0].queue

    async def answers(self, queue: str, number: int, done: asyncio.Future[Any]) -> list[Delivery]:
        """Await the answers to ``number`` requests; the caller writes the requests first."""
        asked = _Asked(queue, number, done)
        self._asked.append(asked)
        try:
            await done
        except BaseException:
            for delivery in asked.found:
                self._give_back(delivery.tag)
            raise
        return asked.found

    def answer(self, delivery: Delivery | None) -> None:
        """Assign an answer of the server to the oldest request."""
        asked = self._asked[0]
        asked.left -= 1
        if not asked.left:
            self._asked.popleft()
        if delivery is not None:
            self._keep(asked, delivery)
        if not asked.left and not asked.done.done():
            asked.done.set_result(None)

    def _keep(self, asked: _Asked, delivery: Delivery) -> None:
        if asked.done.done():
            self._give_back(delivery.tag)
        else:
            asked.found.append(delivery)

    def clear(self) -> None:
        """Forget all requests: the channel has closed."""
        self._asked.clear()
