"""Moving: moves tasks of agents that left their collection to its current agents.

Each task is published to its new queue, confirmed, and only then acknowledged. A delayed task, or
one that waits for a retry, can be moved only when it is due: until then it cannot be found.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.admission import Offering
from agentpipe.brokers.rabbitmq.cancel_marks import by_id
from agentpipe.brokers.rabbitmq.messages import Message, now_ms

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Queue
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.message import OutgoingMessage


class Moving:
    """Moves one portion of a collection's tasks."""

    def __init__(self, services: Services, queues: list[Queue], limit: int) -> None:
        self._services, self._left = services, limit
        self._offering = Offering(services, queues, 0)
        self._queues = queues
        self._unused: Queue | None = None  # The target of the last turn, which found no task.
        self._channel: Channel

    async def run(self, agents: Collection[str]) -> int:
        """Move the waiting tasks of these agents; returns how many were moved."""
        services, moved = self._services, 0
        former = services.registry.former()
        collection = self._queues[0].collection
        removed = [it for it in former if it.collection == collection and it.name in agents]
        await services.prepare(self._queues)
        await services.marks.read()
        await self._offering.count_room()
        self._channel = await services.connection.session.channel()
        try:
            for queue in removed:
                names = [source.name for source in services.registry.sources(queue)]
                depths = await services.queues.depths(names)
                for name in (name for name, depth in depths.items() if depth):
                    moved += await self._move(name, queue.name)
            await self._channel.catch_up()
        finally:
            self._channel.close()
        return moved

    async def _move(self, source: str, agent: str) -> int:
        """Take and publish as many tasks as there is room for; a refused one goes back."""
        taken: list[tuple[Delivery, Message]] = []
        messages: list[OutgoingMessage] = []
        while len(taken) < self._left and (target := self._target()) is not None:
            delivery = await self._channel.get(source)
            if delivery is None:
                self._unused = target
                break
            message = Message.read(delivery, agent)
            # Its worker died, and no worker serves the agent and would count the crash.
            message = message.crashed() if delivery.redelivered else message
            taken.append((delivery, message))
            messages.append(await self._outgoing(message, target))
        fates = await self._services.connection.publisher.publish(messages)
        pairs = zip(taken, fates, strict=True)
        await self._put_back([message for (_, message), fate in pairs if fate != "taken"])
        for delivery, _ in taken:
            self._channel.ack(delivery.tag)
        self._left -= len(taken)
        return fates.count("taken")

    def _target(self) -> Queue | None:
        target, self._unused = self._unused or self._offering.next_queue(), None
        return target

    async def _outgoing(self, message: Message, target: Queue) -> OutgoingMessage:
        """The message to the new agent; a task that has crashed goes to the returned ones."""
        topology, marks = self._services.topology, self._services.marks
        moved = replace(message, queue=target.name, ticket=None)
        if message in marks:  # Cancelled as a task of its old agent, run or group: keep that.
            await marks.add([by_id(message.task_id)])
        elif moved in marks:  # The new agent's mark must not apply to it.
            moved = replace(moved, submitted_ms=now_ms())
        if message.crashes:
            return moved.to(topology.back(target.name))
        return moved.to(topology.admission(target.name, target.max_waiting))

    async def _put_back(self, messages: list[Message]) -> None:
        """Put back copies: a requeued original would look as if its worker had died."""
        back, publisher = self._services.topology.back, self._services.connection.publisher
        await publisher.publish([message.to(back(message.queue)) for message in messages])
