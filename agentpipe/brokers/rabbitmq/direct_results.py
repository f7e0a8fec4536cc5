"""DirectResults: Results that go to the sink from this process's memory, past the outbox.

The task of such a Result is acknowledged once the sink has confirmed it, so a Result is durable in
the sink, or its task is still in its queue. The outbox takes every Result that the sink has not
confirmed within ``WITHIN_S``, and all that follow until the sink is quick again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.sink_speed import SinkSpeed
from agentpipe.brokers.records import OutboxRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.rabbitmq.outbox import Outbox
    from agentpipe.brokers.rabbitmq.served_agent import Held
    from agentpipe.brokers.records import Settlement

# A worker that is killed can repeat the runs that ended within this time.
WITHIN_S = 0.05
# Larger Results would fill the memory.
MAX_BYTES = 64 * 1024
# Interval at which the forwarder looks at the outbox while Results pass it, and the most that it
# takes from it then: those that come meanwhile wait for these.
LOOK_EVERY_S, BESIDE = 0.1, 128

# Below 0, to differ from the outbox's own; never used again, even after a lost connection.
_numbers = itertools.count(-1, -1)


def is_direct(number: int) -> bool:
    """Whether the number of a record belongs to a direct Result."""
    return number < 0


@dataclass(eq=False, slots=True)
class Batch:
    """Settlements that are carried out together.

    Attributes:
        settled: Resolves once they are.
        otherwise: Settles them with the outbox.
        left: The number of Results that the sink has not confirmed.
        since: When it began, on the monotonic clock.
    """

    pairs: Sequence[tuple[Settlement, Held]]
    settled: Future[list[bool]]
    otherwise: Callable[[], None]
    left: int
    since: float


class DirectResults:
    """The Results of one worker on one connection.

    The forwarder's thread uses what is marked so, and all else belongs to the connection's thread.

    Args:
        finish: Settles batches whose Results the sink has confirmed.
    """

    def __init__(self, outbox: Outbox, finish: Callable[[list[Batch]], None]) -> None:
        self._outbox, self._finish = outbox, finish
        self._waiting: deque[OutboxRecord] = deque()
        # By record number, oldest first.
        self._batches: dict[int, Batch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._taken_at = self._confirmed_at = self._looked_at = float("-inf")
        self._speed = SinkSpeed()

    @property
    def is_quick(self) -> bool:
        """Whether the sink is quick enough; from any thread."""
        return self._speed.is_quick

    def add(self, batch: Batch) -> None:
        """Lend these Results to the forwarder, for at most ``WITHIN_S``."""
        for settlement, _ in batch.pairs:
            record = OutboxRecord(
                next(_numbers), settlement.claim.task_id, settlement.result, holds_task=True
            )
            self._batches[record.number] = batch
            self._waiting.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WITHIN_S, self._look)

    def _look(self) -> None:
        """Give up the batches that have waited for too long; look again when the next one will."""
        self._timer, now = None, time.monotonic()
        self._give_up(lambda batch: now - batch.since >= WITHIN_S)
        if oldest := next(iter(self._batches.values()), None):
            left_s = max(0.0, oldest.since + WITHIN_S - now)
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)

    def give_up(self) -> None:
        """Settle everything with the outbox."""
        self._give_up(lambda _: True)

    def _give_up(self, is_given_up: Callable[[Batch], bool]) -> None:
        batches = dict.fromkeys(filter(is_given_up, self._batches.values()))
        self._batches = {it: each for it, each in self._batches.items() if each not in batches}
        if batches:
            self._speed.missed()
        for batch in batches:
            batch.otherwise()

    def confirm(self, numbers: Iterable[int]) -> None:
        """Settle the tasks of Results that the sink has confirmed, unless the outbox has them."""
        done = []
        for batch in filter(None, (self._batches.pop(number, None) for number in numbers)):
            batch.left -= 1
            if not batch.left:
                done.append(batch)
        if done:
            self._finish(done)

    # The forwarder's thread.

    def take(
        self, limit: int, max_bytes: int, stored: Callable[[int], list[OutboxRecord]]
    ) -> list[OutboxRecord]:
        """The oldest of these for the sink, behind some of the outbox.

        While the sink is quick, these wait for at most a few of the outbox.

        Args:
            limit: The most Results in total.
            max_bytes: About their most bytes.
            stored: Takes up to a number of Results from the outbox.
        """
        passing = self._take(limit, max_bytes)
        most = limit - len(passing)
        most = min(most, BESIDE) if self.is_quick else most
        found = stored(most) if self._outbox_is_due(beside=bool(passing)) else []
        self._taken_at = time.monotonic()
        return [*found, *passing]

    def _take(self, limit: int, max_bytes: int) -> list[OutboxRecord]:
        """The oldest of these."""
        taken: list[OutboxRecord] = []
        size = 0
        while len(taken) < limit and size < max_bytes and self._waiting:
            record = self._waiting.popleft()
            if record.number in self._batches:  # Otherwise the outbox has it by now.
                taken.append(record)
                size += len(record.payload)
        return taken

    def _outbox_is_due(self, *, beside: bool) -> bool:
        """Whether to look at the outbox now, ``beside`` Results that pass it."""
        now = time.monotonic()
        last = self._looked_at if beside else min(self._looked_at, self._confirmed_at)
        is_recent = self.is_quick and now - last < LOOK_EVERY_S
        if is_recent and (beside or not self._outbox.has_more):
            return False
        self._looked_at = now
        return True

    def note_confirmed(self, direct: Sequence[int], records: int) -> None:
        """Note that the sink has confirmed the records that were taken, these directly."""
        now = time.monotonic()
        self._speed.confirmed(now - self._taken_at, records)
        if direct:
            self._confirmed_at = now
