"""EvenSharing: how long after a wake-up a worker takes only its even share."""

from __future__ import annotations

import math
import threading
import time

# Other workers wake and take their share in this time. The rest goes to the first that claims it.
SHARE_FOR_S = 0.02


class EvenSharing:
    """Not thread-safe, except ``begin_soon``."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._ends_at = math.inf

    @property
    def rest_s(self) -> float | None:
        """Seconds until the worker can take more than its share; None if not sharing."""
        return None if self._ends_at == math.inf else max(0.0, self._ends_at - time.monotonic())

    def begin(self) -> None:
        """Share for a moment, unless sharing is already on."""
        self._ends_at = min(self._ends_at, time.monotonic() + SHARE_FOR_S)

    def begin_soon(self) -> None:
        """Share from the next ``look`` on; thread-safe."""
        self._woken.set()

    def look(self) -> bool:
        """Whether other workers still need time to claim their share."""
        is_on = time.monotonic() < self._ends_at
        if not is_on:
            self._ends_at = math.inf
        if self._woken.is_set():
            self._woken.clear()
            self.begin()
        return is_on
