"""TallyKeeper: counts what one worker has settled since it joined; the server does not."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.rpc import Reply
from agentpipe.brokers.statistics import RECENT_S, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.rabbitmq.rpc import Member
    from agentpipe.brokers.records import Settlement


class TallyKeeper:
    """Counts settlements."""

    def __init__(self) -> None:
        self._by_queue: dict[str, Tally] = {}
        self._failed_at: dict[str, float] = {}
        self._outcomes: Counter[str] = Counter()
        self._ended: deque[float] = deque()

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Count settlements that were carried out just now."""
        for each in settlements:
            queue, tally = each.claim.queue, Tally.of(each)
            self._by_queue[queue] = self._by_queue.get(queue, Tally()) + tally
            if tally.error_s is not None:
                self._failed_at[queue] = time.monotonic()
            if each.action in ("complete", "bury"):
                self._outcomes[each.outcome] += 1
                self._ended.append(time.monotonic())
        self._forget()

    def _forget(self) -> None:
        while self._ended and time.monotonic() - self._ended[0] > RECENT_S:
            self._ended.popleft()

    def reply(self, member: Member) -> Reply:
        """What was counted up to now."""
        self._forget()
        now = time.monotonic()
        by_queue = {
            queue: replace(tally, error_s=now - self._failed_at[queue]) if tally.error else tally
            for queue, tally in self._by_queue.items()
        }
        return Reply(member, by_queue, dict(self._outcomes), len(self._ended))


def by_queue(replies: Iterable[Reply]) -> dict[str, Tally]:
    """What several workers count of the same queues, together; the youngest error counts."""
    tallies: dict[str, Tally] = {}
    for reply in replies:
        for queue, tally in reply.tallies.items():
            both = [tallies.get(queue, Tally()), tally]
            both.sort(key=lambda it: -(it.error_s or 0.0))
            tallies[queue] = both[0] + both[1]
    return tallies
