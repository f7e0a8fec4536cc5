"""TallyKeeper: counts what one worker has settled since it joined; the server does not.

``MeasuresSeen`` sums the counters of all workers while its process runs.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.measures import WIDTH, Measures, added, count_settlement
from agentpipe.brokers.rabbitmq.rpc import Reply
from agentpipe.brokers.statistics import RECENT_S, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.rabbitmq.rpc import Member
    from agentpipe.brokers.rabbitmq.served_agent import Held
    from agentpipe.brokers.records import Settlement


# Counters of a worker that has not replied for this long are forgotten; it has ended.
REMEMBER_S = 3_600.0


class TallyKeeper:
    """Counts settlements."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._measures: dict[str, dict[int, float]] = defaultdict(dict)
        self._by_queue: dict[str, Tally] = {}
        self._failed_at: dict[str, float] = {}
        self._outcomes: Counter[str] = Counter()
        self._ended: deque[float] = deque()

    def add(self, settled: Iterable[tuple[Settlement, Held]]) -> None:
        """Count settlements that were just carried out, with their claims."""
        now = time.monotonic()
        for each, held in settled:
            queue, tally = each.claim.queue, Tally.of(each)
            owner = held.agent.queue.collection or queue
            waited_s = held.since - each.claim.submitted_at
            count_settlement(self._measures[owner], each, now - held.begun, waited_s)
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

    def reply(self, member: Member, drained: frozenset[str]) -> Reply:
        """The current counts; nothing waits on the server for ``drained`` queues."""
        self._forget()
        now = time.monotonic()
        by_queue = {
            queue: replace(tally, error_s=now - self._failed_at[queue]) if tally.error else tally
            for queue, tally in self._by_queue.items()
        }
        measures = {owner: _numbers(counts) for owner, counts in self._measures.items()}
        return Reply(
            member,
            by_queue,
            dict(self._outcomes),
            len(self._ended),
            drained=drained,
            measures=measures,
            age_s=now - self._since,
        )


def _numbers(counts: Mapping[int, float]) -> list[float]:
    return added([0.0] * WIDTH, counts)


def by_queue(replies: Iterable[Reply]) -> dict[str, Tally]:
    """The sum of several workers' counts per queue, with the latest error."""
    tallies: dict[str, Tally] = {}
    for reply in replies:
        for queue, tally in reply.tallies.items():
            both = [tallies.get(queue, Tally()), tally]
            both.sort(key=lambda it: -(it.error_s or 0.0))
            tallies[queue] = both[0] + both[1]
    return tallies


class MeasuresSeen:
    """What workers have counted since this process first asked them.

    A worker's counters disappear when it ends. The sum of their increases only grows, so a scraper
    does not take a worker's end for a counter reset. It starts at 0, like all counters of a
    process.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._last: dict[str, tuple[float, Mapping[str, Sequence[float]]]] = {}
        self._began: float | None = None

    def add(self, replies: Iterable[Reply]) -> dict[str, Measures]:
        """Add the increases; returns the sums by collection."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        for reply in replies:
            _, before = self._last.get(reply.member.name, (now, None))
            if before is None:  # A worker that joined after our start began at 0.
                before = {} if reply.age_s <= now - self._began else reply.measures
            for owner, numbers in reply.measures.items():
                self._rise(owner, numbers, before.get(owner, ()))
            self._last[reply.member.name] = now, reply.measures
        self._last = {
            name: (at, numbers)
            for name, (at, numbers) in self._last.items()
            if now - at < REMEMBER_S
        }
        return {owner: Measures.of(numbers) for owner, numbers in sorted(self._sums.items())}

    def _rise(self, owner: str, numbers: Sequence[float], before: Sequence[float]) -> None:
        sums = self._sums.setdefault(owner, [0.0] * WIDTH)
        earlier = [*before, *[0.0] * (WIDTH - len(before))]
        # A later version may have more counters; ignore those.
        for place, number in enumerate(numbers[:WIDTH]):
            sums[place] += max(0.0, number - earlier[place])
