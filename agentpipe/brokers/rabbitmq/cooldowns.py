"""Cooldowns: until when no worker claims from an agent's queue, as this process has heard.

The server keeps no such moment. The worker that causes a cooldown tells the others which agents it
covers. The worker that serves one consumes nothing from its queues and puts back what it has
prefetched; the others remember the cooldown for the agent's next worker.
"""

from __future__ import annotations

import time

# A report of a known cooldown is a little old, so that the cooldown would grow with each report.
SAME_S = 0.5


class Cooldowns:
    """Each queue's cooldown, on the monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, queue: str, cooldown_s: float) -> None:
        """Begin one, unless a longer one is under way."""
        until = time.monotonic() + cooldown_s
        self._until[queue] = max(until, self._until.get(queue, 0.0))

    def note(self, queue: str, cooldown_s: float) -> bool:
        """The same for one that another worker reports; returns whether it was new."""
        left_s = self.left_s(queue)
        new = cooldown_s > (left_s + SAME_S if left_s else 0.0)
        if new:
            self.begin(queue, cooldown_s)
        return new

    def left_s(self, queue: str) -> float:
        """The seconds that are left; 0 without a cooldown."""
        left_s = self._until.get(queue, 0.0) - time.monotonic()
        if left_s <= 0:
            self._until.pop(queue, None)
        return max(0.0, left_s)

    def all(self) -> dict[str, float]:
        """The seconds that are left, by queue."""
        left = {queue: self.left_s(queue) for queue in list(self._until)}
        return {queue: left_s for queue, left_s in left.items() if left_s > 0}
