"""Outbox: Results in a durable queue, lent to the forwarder and acknowledged after the sink."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from agentpipe.brokers.records import OutboxRecord
from agentpipe.connections.amqp.message import OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.settings import OutboxLimits

COUNT_EVERY_S = 0.25
# The number of Results to request first, and its growth factor while more are found.
FEW, GROWTH = 2, 4
# The most to request at once: each can be of any size, regardless of earlier ones.
AT_ONCE = 32
SIZES_REMEMBERED = 100


class Outbox:
    """The outbox as one process sees it; lent Results return when the connection ends."""

    def __init__(self, topology: Topology, channel: Channel) -> None:
        self._queue, self._channel = topology.shared("outbox"), channel
        # A number of an earlier connection must not refer to another record of this one.
        self._numbers = itertools.count(time.time_ns())
        # By number: the delivery tag, and the worker.
        self._lent: dict[int, tuple[int, str]] = {}
        self._records = self._coming = 0
        self._counted_at = float("-inf")
        self._mean_bytes, self._sizes = 0.0, 0

    def message(self, task_id: str, result: bytes) -> OutgoingMessage:
        """The message that carries a Result into the outbox."""
        return OutgoingMessage(self._queue.name, result, {"agentpipe-id": task_id})

    def note(self, published: Iterable[OutgoingMessage]) -> None:
        """Count the Results among messages that were just published."""
        for message in published:
            if message.key == self._queue.name:
                self._records += 1
                self._weigh(len(message.body))

    def expect(self, number: int) -> None:
        """Count Results that are being published, so that claims do not overtake them.

        Each call is taken back with the negative number, whether they were published or not.
        """
        self._coming += number

    @property
    def has_more(self) -> bool:
        """Whether Results wait here that are not lent, as far as we know; from any thread."""
        return self._records > len(self._lent)

    def lent_to(self, worker: str) -> int:
        """The number of Results that the worker is forwarding."""
        return sum(owner == worker for _, owner in self._lent.values())

    def lends(self, number: int, worker: str) -> bool:
        """Whether this Result is lent to the worker."""
        return self._lent.get(number, (0, None))[1] == worker

    async def is_above(self, limits: OutboxLimits) -> bool:
        """Whether the outbox has reached a limit; estimates the bytes, as AMQP reports none."""
        if (above := self.is_known_above(limits)) is not None:
            return above
        ready = await self._channel.declare(self._queue)
        self._counted_at = time.monotonic()
        self._records = ready + len(self._lent)
        return self._has_reached(limits)

    def is_known_above(self, limits: OutboxLimits) -> bool | None:
        """Same without asking the server; None if the last count is too old."""
        counted = time.monotonic() - self._counted_at <= COUNT_EVERY_S
        return self._has_reached(limits) if counted else None

    def _has_reached(self, limits: OutboxLimits) -> bool:
        records = self._records + self._coming
        return limits.reached_by(records, round(records * self._mean_bytes))

    async def take(self, worker: str, limit: int, max_bytes: int) -> list[OutboxRecord]:
        """Lend the oldest Results that are not lent, at least one if there is any."""
        taken: list[OutboxRecord] = []
        try:
            await self._take(worker, limit, max_bytes, taken)
        except BaseException:  # The connection can outlive this, such as on a blocked server.
            for record in taken:
                if lent := self._lent.pop(record.number, None):  # Unless the worker has left.
                    self._channel.requeue(lent[0])
            raise
        return taken

    async def _take(
        self, worker: str, limit: int, max_bytes: int, taken: list[OutboxRecord]
    ) -> None:
        asked, size, largest = min(FEW, limit), 0, 0
        while asked > 0:
            found = await self._channel.get_many(self._queue.name, asked)
            for delivery in found:
                size += len(delivery.body)
                largest = max(largest, len(delivery.body))
                if taken and size > max_bytes:
                    self._channel.requeue(delivery.tag)
                else:
                    taken.append(self._lend(delivery, worker))
            room = (max_bytes - size) // max(1, largest)
            more = min(GROWTH * asked, AT_ONCE, limit - len(taken), room)
            asked = more if len(found) == asked else 0

    def _lend(self, delivery: Delivery, worker: str) -> OutboxRecord:
        number = next(self._numbers)
        self._lent[number] = delivery.tag, worker
        self._weigh(len(delivery.body))
        return OutboxRecord(number, str(delivery.headers.get("agentpipe-id", "")), delivery.body)

    def drop(self, worker: str, numbers: Sequence[int]) -> None:
        """Acknowledge Results that the sink has confirmed."""
        mine = [number for number in numbers if self.lends(number, worker)]
        self._channel.ack_all([self._lent.pop(number)[0] for number in mine])
        self._records -= len(mine)

    def take_back(self, worker: str, kept: Collection[int] = ()) -> int:
        """Requeue the Results lent to a worker, except ``kept``; returns how many."""
        lost = [it for it, (_, owner) in self._lent.items() if owner == worker and it not in kept]
        self.put_back(worker, lost)
        return len(lost)

    def put_back(self, worker: str, numbers: Iterable[int]) -> None:
        """Requeue these Results if they are lent to the worker."""
        for number in numbers:
            if self.lends(number, worker):
                self._channel.requeue(self._lent.pop(number)[0])

    def _weigh(self, size: int) -> None:
        self._sizes = min(SIZES_REMEMBERED, self._sizes + 1)
        self._mean_bytes += (size - self._mean_bytes) / self._sizes
