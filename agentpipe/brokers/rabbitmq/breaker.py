"""FleetBreaker: streaks of equal failures, as this process counts and hears them.

The server counts nothing: each worker tells the others how runs end, and all keep the same count.
So a streak can be a few runs longer here than with a store that counts in its transaction.
"""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from typing import TYPE_CHECKING

from agentpipe.brokers.breaker import Streak, digest_of, matters, reason_of
from agentpipe.brokers.rabbitmq.rpc import Request, RunEnded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from agentpipe.brokers.breaker import Tripped
    from agentpipe.brokers.records import Settlement


class FleetBreaker:
    """The streaks of the collections; it survives the connection.

    Attributes:
        tripped: Collections that this process has paused, until the caller takes them.
    """

    def __init__(self) -> None:
        self.tripped: deque[Tripped] = deque()
        self._streaks: dict[str, Streak] = {}
        self._origin, self._numbers = uuid.uuid4().hex, itertools.count(1)
        self._heard: dict[str, int] = {}

    def count(self, runs: Iterable[RunEnded]) -> dict[str, str]:
        """Count runs in order; returns the collections to pause, with the reasons."""
        tripping: dict[str, str] = {}
        for run in runs:
            streak = self._streaks.pop(run.collection, Streak()).after(run.digest)
            if streak.failures:
                self._streaks[run.collection] = streak
            if run.digest and streak.failures >= run.limit:
                tripping[run.collection] = run.reason
        return tripping

    def news(self, runs: Sequence[RunEnded]) -> list[RunEnded]:
        """The runs that change the count; most do not."""
        failing = {run.collection for run in runs if run.digest} | self._streaks.keys()
        return [run for run in runs if run.collection in failing]

    def said(self, runs: Iterable[RunEnded]) -> Request:
        """The message about these runs to the other workers."""
        number = next(self._numbers)
        return Request("runs", runs=tuple(runs), origin=self._origin, number=number)

    def is_new(self, request: Request) -> bool:
        """Whether another process sent it and it is new; all workers of this process receive it."""
        heard = self._heard.get(request.origin, 0)
        self._heard[request.origin] = max(heard, request.number)
        return request.origin != self._origin and request.number > heard

    def forget(self, collections: Collection[str]) -> None:
        """Reset the counts of these collections."""
        for collection in collections:
            self._streaks.pop(collection, None)


def run_ended(settlement: Settlement, collection: str | None) -> RunEnded | None:
    """The record of a settled run for the breaker; None if it does not matter."""
    if collection is None or not matters(settlement):
        return None
    limit = settlement.failure.limit if settlement.failure else 0
    return RunEnded(collection, digest_of(settlement), limit, reason_of(settlement))
