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

from agentpipe.brokers.records import OutboxRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.rabbitmq.deliveries import Held
    from agentpipe.brokers.rabbitmq.outbox import Outbox
    from agentpipe.brokers.records import Settlement

# A worker that is killed can repeat the runs that ended within this time.
WITHIN_S = 0.05
# Results go directly to a sink that has confirmed a batch within this time.
QUICK_S = 0.025
# Larger Results would fill the memory.
MAX_BYTES = 64 * 1024
# Interval at which the forwarder looks at the outbox while Results pass it.
LOOK_EVERY_S = 0.25

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

    Attributes:
        is_quick: Whether the sink has confirmed its last batch quickly.
    """

    def __init__(self, outbox: Outbox, finish: Callable[[list[Batch]], None]) -> None:
        self._outbox, self._finish = outbox, finish
        self._waiting: deque[OutboxRecord] = deque()
        # By record number, oldest first.
        self._batches: dict[int, Batch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._taken_at = self._confirmed_at = self._looked_at = float("-inf")
        self.is_quick = False

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
        for batch in batches:
            self.is_quick = False
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

    def outbox_is_due(self) -> bool:
        """Whether to look at the outbox now; if so, the caller does."""
        now, last = time.monotonic(), min(self._looked_at, self._confirmed_at)
        if self.is_quick and now - last < LOOK_EVERY_S and not self._outbox.has_more:
            return False
        self._looked_at = now
        return True

    def take(
        self, stored: Sequence[OutboxRecord], limit: int, max_bytes: int
    ) -> list[OutboxRecord]:
        """Results of the outbox, then the oldest of these."""
        taken, size = list(stored), sum(len(record.payload) for record in stored)
        while len(taken) < limit and size < max_bytes and self._waiting:
            record = self._waiting.popleft()
            if record.number in self._batches:  # Otherwise the outbox has it by now.
                taken.append(record)
                size += len(record.payload)
        self._taken_at = time.monotonic()
        return taken

    def note_confirmed(self, direct: Sequence[int]) -> None:
        """Note that the sink has confirmed what was taken, with these direct Results."""
        now = time.monotonic()
        if now - self._taken_at <= QUICK_S:
            self.is_quick = True
        if direct:
            self._confirmed_at = now
