"""Gets: messages that were asked for one by one, many at a time, and are answered in that order."""

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
    """So many answers are still to come."""

    left: int
    done: asyncio.Future[Any]
    found: list[Delivery] = field(default_factory=list)


class Gets:
    """Those of one channel.

    Args:
        give_back: Called with the tag of each delivery that its caller no longer waits for.
    """

    def __init__(self, give_back: Callable[[int], None]) -> None:
        self._give_back = give_back
        self._asked: deque[_Asked] = deque()

    async def answers(self, number: int, done: asyncio.Future[Any]) -> list[Delivery]:
        """What comes of so many requests, which the caller writes before it awaits this."""
        asked = _Asked(number, done)
        self._asked.append(asked)
        try:
            await done
        except BaseException:
            for delivery in asked.found:
                self._give_back(delivery.tag)
            raise
        return asked.found

    def answer(self, delivery: Delivery | None) -> None:
        """The server answers the oldest request."""
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
        """No answer will come any more."""
        self._asked.clear()
