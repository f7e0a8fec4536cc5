"""SinkSpeed: whether the sink is quick enough to get Results before their tasks are settled."""

from __future__ import annotations

import time

# Results go directly to a sink again that has confirmed a batch within this time; of more records,
# as from a full outbox, in as many times that.
QUICK_S, BATCH = 0.025, 128
# They go to the outbox for so long after the sink did not confirm one in time; twice as long if it
# was quick for less than that. Each such change repeats a few records, which readers drop.
REST_S, MAX_REST_S = 0.2, 30.0


class SinkSpeed:
    """What the sink's confirmations show.

    Attributes:
        is_quick: Whether Results can go to it directly.
    """

    def __init__(self) -> None:
        self.is_quick = True
        self._since = self._rests_until = float("-inf")
        self._rest_s = REST_S

    def confirmed(self, took_s: float, records: int) -> None:
        """Note how long a batch of so many records took."""
        now, is_quick = time.monotonic(), took_s <= QUICK_S * max(1.0, records / BATCH)
        if is_quick and not self.is_quick and now >= self._rests_until:
            self.is_quick, self._since = True, now

    def missed(self) -> None:
        """Note that the sink did not confirm a Result in time."""
        if not self.is_quick:
            return
        self.is_quick, now = False, time.monotonic()
        was_brief = now - self._since < self._rest_s
        self._rest_s = min(MAX_REST_S, 2 * self._rest_s) if was_brief else REST_S
        self._rests_until = now + self._rest_s
