"""Offering: which queue takes an offered task; the server keeps the bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.names import Message
from agentpipe.brokers.records import Admission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.records import Offer, Queue, Verdict
    from agentpipe.connections.amqp.channel import Channel, Fate
    from agentpipe.connections.amqp.message import Letter

# Rings of more queues are offered to without looking first which of them have room.
LOOK_AT_MOST = 64


class Offering:
    """One batch of offers on its way into a ring's queues, or into one queue."""

    def __init__(self, desk: Desk, channel: Channel, queues: Sequence[Queue], cursor: int) -> None:
        self._desk, self._channel, self._queues = desk, channel, queues
        self._cursor = cursor % len(queues)
        self._room: dict[str, float] = {queue.name: math.inf for queue in queues}

    @property
    def cursor(self) -> int:
        """Where the next batch begins."""
        return self._cursor

    async def make(self, offers: Sequence[Offer]) -> Admission:
        """Offer all of them, in order."""
        few = 1 < len(self._queues) <= min(len(offers), LOOK_AT_MOST)
        # Replicated queues refuse late: what is known to be too much is not even sent.
        await self._look(all_of_them=few or self._desk.names.quorum)
        verdicts: list[Verdict] = ["refused"] * len(offers)
        todo = list(range(len(offers)))
        while todo:
            placed = [(at, queue) for at in todo if (queue := self._next(offers[at])) is not None]
            todo = []
            for at, fate in zip(
                [at for at, _ in placed], await self._publish(offers, placed), strict=True
            ):
                if fate == "taken":
                    verdicts[at] = "accepted"
                else:
                    todo.append(at)
        if "refused" not in verdicts:
            return Admission(tuple(verdicts), 0, 0)
        bound = sum(queue.max_waiting for queue in self._queues)
        return Admission(tuple(verdicts), await self._depth(), bound)

    def _next(self, offer: Offer) -> Queue | None:
        """The next queue with room; delayed tasks meet no bound."""
        for _ in self._queues:
            queue = self._queues[self._cursor]
            self._cursor = (self._cursor + 1) % len(self._queues)
            if offer.delay_s > 0:
                return queue
            if self._room[queue.name] > 0:
                self._room[queue.name] -= 1
                return queue
        return None

    async def _letter(self, offer: Offer, queue: Queue) -> Letter:
        message = Message.offered(offer, queue.name)
        if offer.delay_s > 0:
            await self._desk.prepare_delays(queue)
            return message.delayed(self._desk.names, offer.delay_s)
        return message.to(self._desk.names.admission(queue.name, queue.max_waiting))

    async def _publish(
        self, offers: Sequence[Offer], placed: Sequence[tuple[int, Queue]]
    ) -> list[Fate]:
        """What became of each; queues that are not there yet are made."""
        letters = [await self._letter(offers[at], queue) for at, queue in placed]
        fates = await self._channel.publish(letters)
        missing = [at for at, fate in enumerate(fates) if fate == "unroutable"]
        if missing:
            await self._desk.prepare({placed[at][1] for at in missing})
            again = await self._channel.publish([letters[at] for at in missing])
            for at, fate in zip(missing, again, strict=True):
                fates[at] = fate
        for (_, queue), fate in zip(placed, fates, strict=True):
            if fate == "refused":
                self._room[queue.name] = 0
        return fates

    async def _look(self, *, all_of_them: bool) -> None:
        """See how much room there is. The server does not count what waits under another bound."""
        for queue in self._queues:
            if all_of_them or len(self._desk.registry.bounds(queue.name)) > 1:
                self._room[queue.name] = queue.max_waiting - await self._desk.depth(queue)

    async def _depth(self) -> int:
        return sum([await self._desk.depth(queue) for queue in self._queues])
