"""Holds: agents whose service asked to be left alone, as this process has heard of them."""

from __future__ import annotations

import time

# What is told of a hold arrives a little later, so that it would grow each time it goes round.
SAME_S = 0.5


class Holds:
    """Until when nobody claims from which queue.

    No queue of the server's can say so: whoever serves the agent takes nothing from its queues.
    The others keep it in mind, so that it holds for the next one to serve the agent as well.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, queue: str, hold_s: float) -> None:
        """Hold the queue, unless it is held for longer."""
        until = time.monotonic() + hold_s
        self._until[queue] = max(until, self._until.get(queue, 0.0))

    def hear(self, queue: str, hold_s: float) -> bool:
        """The same for what another worker tells; whether that was new."""
        new = hold_s > self.left_s(queue) + SAME_S
        if new:
            self.begin(queue, hold_s)
        return new

    def left_s(self, queue: str) -> float:
        """How long it is held; 0 if it is not."""
        if queue not in self._until:
            return 0.0
        left_s = self._until[queue] - time.monotonic()
        if left_s <= 0:
            del self._until[queue]
        return max(0.0, left_s)

    def all(self) -> dict[str, float]:
        """Each queue that is held, with how long."""
        left = {queue: self.left_s(queue) for queue in list(self._until)}
        return {queue: left_s for queue, left_s in left.items() if left_s > 0}
