"""Offering: selects a queue for each offered task; the server enforces the bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.brokers.records import Admission
from agentpipe.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.rabbitmq.runs import Runs
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Offer, Queue, Verdict
    from agentpipe.connections.amqp.confirmations import Fate
    from agentpipe.connections.amqp.message import OutgoingMessage

# For larger groups, the room in the queues is not checked before the offers are sent.
LOOK_AT_MOST = 64


class Offering:
    """One batch of offers, for one queue or round-robin over several.

    Attributes:
        cursor: Index of the queue where the next batch begins.
    """

    def __init__(self, services: Services, queues: Sequence[Queue], cursor: int) -> None:
        self._services, self._queues = services, queues
        self._topology = services.topology
        self.cursor = cursor % len(queues)
        self._room: dict[str, float] = {queue.name: math.inf for queue in queues}

    async def make(self, offers: Sequence[Offer]) -> Admission:
        """Offer all tasks, in order.

        Raises:
            TaskError: A task exceeds the server's limit; sending it would close the channel.
        """
        await self._check_sizes(offers)
        await self._look(offers)
        verdicts: list[Verdict] = ["refused"] * len(offers)
        todo = list(range(len(offers)))
        while todo:
            placed = [(at, queue) for at in todo if (queue := self.next_queue()) is not None]
            fates = await self._publish([(offers[at], queue) for at, queue in placed])
            todo = []
            for (at, _), fate in zip(placed, fates, strict=True):
                if fate == "taken":
                    verdicts[at] = "accepted"
                else:
                    todo.append(at)
        if "refused" not in verdicts:
            return Admission(tuple(verdicts), 0, 0)
        depth = sum((await self._services.queues.taken(self._queues)).values())
        return Admission(tuple(verdicts), depth, sum(it.max_waiting for it in self._queues))

    async def _check_sizes(self, offers: Sequence[Offer]) -> None:
        largest = max(offers, key=lambda offer: len(offer.payload), default=None)
        size = len(largest.payload) if largest else 0
        limit = await self._services.sizes.limit_below(size)
        if largest is not None and limit is not None and size > limit:
            raise TaskError(
                f"task {largest.task_id} has {size:,} bytes, this server takes {limit:,}: "
                "raise max_message_size in rabbitmq.conf, or send less"
            )

    def next_queue(self) -> Queue | None:
        """The next queue with room, which is reduced by one."""
        for _ in self._queues:
            queue = self._queues[self.cursor]
            self.cursor = (self.cursor + 1) % len(self._queues)
            if self._room[queue.name] > 0:
                self._room[queue.name] -= 1
                return queue
        return None

    async def _message(self, offer: Offer, queue: Queue) -> OutgoingMessage:
        message = Message.offered(offer, queue.name)
        if not offer.bounded and offer.delay_s <= 0:
            return message.to(self._topology.back(queue.name))
        if offer.delay_s > 0:
            if not self._services.queues.is_made(queue):
                await self._services.prepare([queue])
            await self._services.queues.make_delays()
            if offer.bounded:
                message = message.with_ticket(self._services.tickets.name(queue))
            return message.delayed(self._topology, offer.delay_s)
        return message.to(self._topology.admission(queue.name, queue.max_waiting))

    async def _publish(self, placed: Sequence[tuple[Offer, Queue]]) -> list[Fate]:
        """Publish the offers and return their fates; a delayed offer needs a ticket first."""
        fates: list[Fate] = ["taken"] * len(placed)
        delayed = [at for at, (it, _) in enumerate(placed) if it.delay_s > 0 and it.bounded]
        if delayed:
            tickets = await self._services.tickets.put([placed[at] for at in delayed])
            for at, fate in zip(delayed, tickets, strict=True):
                fates[at] = fate
        going = [at for at, fate in enumerate(fates) if fate == "taken"]
        sent = await self._send([placed[at] for at in going])
        for at, fate in zip(going, sent, strict=True):
            fates[at] = fate
        for (_, queue), fate in zip(placed, fates, strict=True):
            if fate == "refused":
                self._room[queue.name] = 0
        return fates

    async def _send(self, placed: Sequence[tuple[Offer, Queue]]) -> list[Fate]:
        """Publish the offers; creates queues that do not exist yet."""
        publisher = self._services.connection.publisher
        messages = [await self._message(offer, queue) for offer, queue in placed]
        fates = await publisher.publish(messages)
        missing = [at for at, fate in enumerate(fates) if fate == "unroutable"]
        if missing:
            await self._services.prepare({placed[at][1] for at in missing})
            again = await publisher.publish([messages[at] for at in missing])
            for at, fate in zip(missing, again, strict=True):
                fates[at] = fate
        return fates

    async def _look(self, offers: Sequence[Offer]) -> None:
        """Count the room if the server's bound is not enough.

        The server counts neither tasks under another bound, nor waiting and delayed tasks together.
        """
        if not all(offer.bounded for offer in offers):
            return
        few = 1 < len(self._queues) <= min(len(offers), LOOK_AT_MOST)
        # Quorum queues refuse late: do not even send what exceeds the known room.
        each = few or self._topology.quorum
        if any(offer.delay_s > 0 for offer in offers):
            each = True
            await self._services.tickets.make(self._queues)
        bounds = self._services.registry.bounds
        await self.count_room([it for it in self._queues if each or len(bounds(it.name)) > 1])

    async def count_room(self, queues: Iterable[Queue] | None = None) -> None:
        """Count the room in these queues, or in all."""
        asked = list(self._queues if queues is None else queues)
        taken = await self._services.queues.taken(asked)
        for queue in asked:
            self._room[queue.name] = queue.max_waiting - taken[queue.name]


async def offer_to_runs(runs: Runs, offering: Offering, offers: Sequence[Offer]) -> Admission:
    """Offer the tasks that their runs do not have yet, each once, and note those accepted.

    A copy of a refused task is refused; any other is a duplicate.
    """
    known = await runs.known([offer.task_id for offer in offers])
    firsts = _firsts(runs, known, offers)
    admission = await offering.make([offers[at] for at in firsts])
    given = dict(zip(firsts, admission.verdicts, strict=True))
    await runs.note(offers[at].task_id for at, it in given.items() if it == "accepted")
    refused = {offers[at].task_id for at, it in given.items() if it == "refused"}
    of_copies: dict[bool, Verdict] = {True: "refused", False: "duplicate"}
    verdicts = (
        given.get(at) or of_copies[offer.task_id in refused] for at, offer in enumerate(offers)
    )
    return replace(admission, verdicts=tuple(verdicts))


def _firsts(runs: Runs, known: Iterable[str], offers: Sequence[Offer]) -> list[int]:
    """The indexes of the offers that are neither known nor copies of a task of a run."""
    seen, found = {*known}, []
    for at, offer in enumerate(offers):
        if offer.task_id not in seen:
            found.append(at)
            if runs.keeps(offer.task_id):
                seen.add(offer.task_id)
    return found
