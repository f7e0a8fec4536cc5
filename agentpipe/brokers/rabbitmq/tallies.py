"""Tallies: what one worker has settled since it joined; nobody else counts it on this broker."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import RECENT_S, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Settlement


class Tallies:
    """Counts what was carried out."""

    def __init__(self) -> None:
        self._of_queues: dict[str, Tally] = {}
        self._failed_at: dict[str, float] = {}
        self._outcomes: Counter[str] = Counter()
        self._ended: deque[float] = deque()

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Reckon with settlements that were carried out just now."""
        for each in settlements:
            queue, tally = each.claim.queue, Tally.of(each)
            self._of_queues[queue] = self._of_queues.get(queue, Tally()) + tally
            if tally.error_s is not None:
                self._failed_at[queue] = time.monotonic()
            if each.action in ("complete", "bury"):
                self._outcomes[each.outcome] += 1
                self._ended.append(time.monotonic())
        self._forget()

    def _forget(self) -> None:
        while self._ended and time.monotonic() - self._ended[0] > RECENT_S:
            self._ended.popleft()

    def told(self) -> dict[str, Any]:
        """As it goes over the wire."""
        self._forget()
        now = time.monotonic()
        tallies = {
            queue: replace(tally, error_s=now - self._failed_at[queue]) if tally.error else tally
            for queue, tally in self._of_queues.items()
        }
        return {
            "tallies": {queue: astuple(tally) for queue, tally in tallies.items()},
            "outcomes": dict(self._outcomes),
            "recent": len(self._ended),
        }


def by_queue(told: Iterable[Mapping[str, Sequence[Any]]]) -> dict[str, Tally]:
    """What several workers tell of the same queues, together; the youngest error counts."""
    tallies: dict[str, Tally] = {}
    for theirs in told:
        for queue, values in theirs.items():
            both = [tallies.get(queue, Tally()), Tally(*values)]
            both.sort(key=lambda tally: -(tally.error_s or 0.0))
            tallies[queue] = both[0] + both[1]
    return tallies
