"""Outbox: Results in a durable queue, lent to the forwarder and acknowledged after the sink."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.records import OutboxRecord
from agentpipe.connections.amqp.message import Letter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.rabbitmq.names import Names
    from agentpipe.connections.amqp.channel import Channel, Delivery
    from agentpipe.settings import OutboxLimits

LOOK_EVERY_S = 0.25
SIZES_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class _Lent:
    tag: int
    worker: str


class Outbox:
    """The outbox as one process sees it; what is lent goes back when the connection ends."""

    def __init__(self, names: Names, channel: Channel) -> None:
        self._queue, self._channel = names.outbox, channel
        # A number of an earlier connection must not stand for another record of this one.
        self._numbers = itertools.count(time.time_ns())
        self._lent: dict[int, _Lent] = {}
        self._next: Delivery | None = None
        self._records = 0
        self._looked_at = float("-inf")
        self._mean_bytes, self._sizes = 0.0, 0

    async def open(self) -> None:
        """Make the queue if there is none."""
        await self._channel.declare(self._queue)

    def letter(self, task_id: str, result: bytes) -> Letter:
        """A Result on its way into the outbox."""
        return Letter(self._queue.name, result, {"agentpipe-id": task_id})

    def has_put(self, letters: Iterable[Letter]) -> None:
        """Reckon with results that were put in just now."""
        for letter in letters:
            if letter.key == self._queue.name:
                self._records += 1
                self._weigh(len(letter.body))

    def lent_to(self, worker: str) -> int:
        """How many results the worker is carrying."""
        return sum(lent.worker == worker for lent in self._lent.values())

    async def is_above(self, limits: OutboxLimits) -> bool:
        """Whether it has reached either limit. AMQP tells no sizes: a mean stands in for them."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            await self._look()
        return limits.reached_by(self._records, round(self._records * self._mean_bytes))

    async def _look(self) -> None:
        ready = await self._channel.declare(self._queue)
        self._looked_at = time.monotonic()
        self._records = ready + len(self._lent) + (self._next is not None)

    async def take(self, worker: str, limit: int, max_bytes: int) -> list[OutboxRecord]:
        """The oldest results that nobody has; at least one where there is one."""
        taken: list[OutboxRecord] = []
        size = 0
        while len(taken) < limit:
            delivery = self._next or await self._channel.get(self._queue.name)
            self._next = None
            if delivery is None:
                break
            size += len(delivery.body)
            if taken and size > max_bytes:
                self._next = delivery
                break
            taken.append(self._lend(delivery, worker))
        return taken

    def _lend(self, delivery: Delivery, worker: str) -> OutboxRecord:
        number = next(self._numbers)
        self._lent[number] = _Lent(delivery.tag, worker)
        self._weigh(len(delivery.body))
        return OutboxRecord(number, str(delivery.headers.get("agentpipe-id", "")), delivery.body)

    def drop(self, worker: str, numbers: Sequence[int]) -> None:
        """Forget what the sink has confirmed."""
        for number in numbers:
            lent = self._lent.get(number)
            if lent is not None and lent.worker == worker:
                del self._lent[number]
                self._channel.ack(lent.tag)
                self._records -= 1

    def give_back(self, worker: str) -> None:
        """Lend to others what this worker was carrying."""
        for number, lent in list(self._lent.items()):
            if lent.worker == worker:
                del self._lent[number]
                self._channel.requeue(lent.tag)

    def _weigh(self, size: int) -> None:
        self._sizes = min(SIZES_REMEMBERED, self._sizes + 1)
        self._mean_bytes += (size - self._mean_bytes) / self._sizes
