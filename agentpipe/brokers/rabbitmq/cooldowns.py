"""Cooldowns: until when no worker claims from an agent's queue, as this process knows.

The server does not store cooldowns. The worker that causes one tells the others which agents it
covers. The worker that serves such an agent stops consuming its queues and puts back its prefetched
tasks; the others remember the cooldown for the agent's next worker.
"""

from __future__ import annotations

import time

# Tolerance for a known cooldown: each report is slightly late, and would extend it.
SAME_S = 0.5


class Cooldowns:
    """Each queue's cooldown, on the monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, queue: str, cooldown_s: float) -> None:
        """Begin a cooldown, unless a longer one is in progress."""
        until = time.monotonic() + cooldown_s
        self._until[queue] = max(until, self._until.get(queue, 0.0))

    def note(self, queue: str, cooldown_s: float) -> bool:
        """Begin a cooldown that another worker reports; returns whether it was new."""
        left_s = self.left_s(queue)
        new = cooldown_s > (left_s + SAME_S if left_s else 0.0)
        if new:
            self.begin(queue, cooldown_s)
        return new

    def left_s(self, queue: str) -> float:
        """The remaining seconds; 0 without a cooldown."""
        left_s = self._until.get(queue, 0.0) - time.monotonic()
        if left_s <= 0:
            self._until.pop(queue, None)
        return max(0.0, left_s)

    def all(self) -> dict[str, float]:
        """The remaining seconds, by queue."""
        left = {queue: self.left_s(queue) for queue in list(self._until)}
        return {queue: left_s for queue, left_s in left.items() if left_s > 0}
