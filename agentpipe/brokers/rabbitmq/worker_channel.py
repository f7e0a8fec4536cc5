"""WorkerChannel: the channel of one worker, and what its parts share."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.topology import PRIORITIES, make_delays
from agentpipe.connections.amqp.channel import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Callable,
        Collection,
        Coroutine,
        Iterator,
        Sequence,
    )

    from agentpipe.brokers.rabbitmq.exposed import Exposed
    from agentpipe.brokers.rabbitmq.received import Received
    from agentpipe.brokers.rabbitmq.served_agent import Prefetched
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.message import OutgoingMessage

REFUSED = "the server refuses to store tasks or results"


@dataclass(slots=True)
class WorkerChannel:
    """Replaces deliveries by messages, and runs a worker's coroutines.

    Attributes:
        wake: Called when a new claim may be possible.
        look: Set when the worker's agents have to be checked.
        exposed: Learns which tasks exist twice.
        received: Learns which are acknowledged.
        tasks: The running background tasks.
    """

    raw: Channel
    services: Services
    wake: Callable[[], None]
    look: asyncio.Event
    exposed: Exposed
    received: Received
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background; it ends at the latest with the channel."""
        task = asyncio.get_running_loop().create_task(_until_closed(work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """Publish all messages with confirms; creates queues that were deleted."""
        if await self._refused(messages):
            raise ChannelClosed(REFUSED)

    async def _refused(self, messages: Sequence[OutgoingMessage]) -> set[int]:
        """Publish the messages; returns the indexes of those that must last and were refused."""
        fates = await self.raw.publish(messages)
        lost = [at for at, fate in enumerate(fates) if fate != "taken" and messages[at].lasting]
        if not lost:
            return set()
        again = [messages[at] for at in lost]
        await self._make_queues(again)
        fates = await self.raw.publish(again)
        return {at for at, fate in zip(lost, fates, strict=True) if fate != "taken"}

    async def _make_queues(self, messages: Sequence[OutgoingMessage]) -> None:
        topology = self.services.topology
        for message in messages:
            await self.raw.declare(topology.durable(message.key))
        await self.raw.keep_made(topology.made)
        if any(message.exchange for message in messages):
            await make_delays(self.raw, topology)

    async def replace(self, pairs: Sequence[tuple[OutgoingMessage, int]]) -> None:
        """Publish each message, then acknowledge the delivery that it replaces.

        Raises:
            ChannelClosed: The server refused messages; the deliveries of the others are replaced.
        """
        with self.moving():
            refused = await self._refused([message for message, _ in pairs])
            self.acknowledge([tag for at, (_, tag) in enumerate(pairs) if at not in refused])
            if refused:
                raise ChannelClosed(REFUSED)

    def acknowledge(self, tags: Collection[int], *, is_over: bool = False) -> None:
        """Acknowledge tasks; ``is_over`` unless they go on in equal copies."""
        self.received.acknowledge(tags, is_over=is_over)
        self.raw.ack_all(tags)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Around this, both exist; at its end, what waits for it can be claimed."""
        try:
            with self.exposed.moving():
                yield
        finally:
            self.wake()

    async def put_back(self, prefetched: Sequence[Prefetched]) -> None:
        """Return tasks as if never delivered: as copies, because a requeue looks like a crash.

        First offers return to the head of their queue. Among returned tasks they would hold up
        those that ran on a worker that has died.
        """
        with self.moving():
            first = await self._put_first([it for it in prefetched if not it.returned])
            back = self.services.topology.back
            rest = [it for it in prefetched if it.tag not in first]
            await self.replace([(it.message.to(back(it.message.queue)), it.tag) for it in rest])

    async def _put_first(self, offers: Sequence[Prefetched]) -> set[int]:
        """Return first offers to their queue; returns the tags of those that had room there.

        Quorum queues have no priorities, and would deliver them last.
        """
        registry, topology = self.services.registry, self.services.topology
        if topology.quorum or not offers:
            return set()
        queues = [registry.limits(it.message.queue) for it in offers]
        copies = [
            it.message.to(topology.admission(queue.name, queue.max_waiting), PRIORITIES)
            for it, queue in zip(offers, queues, strict=True)
        ]
        fates = await self.raw.publish(copies)
        put = [it.tag for it, fate in zip(offers, fates, strict=True) if fate == "taken"]
        self.acknowledge(put)
        return set(put)


@asynccontextmanager
async def closed_on_failure(raw: Channel) -> AsyncIterator[None]:
    """Close the channel on an error: a half-built worker must not stay on a live connection."""
    try:
        yield
    except BaseException:
        raw.close()
        raise


async def _until_closed(work: Coroutine[Any, Any, None]) -> None:
    with suppress(ChannelClosed):
        await work
