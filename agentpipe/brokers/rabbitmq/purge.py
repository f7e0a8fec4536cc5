"""Purge: takes unclaimed tasks out of their queues, to settle them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import TaskSeen
from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.brokers.rabbitmq.rpc import Request
from agentpipe.connections.amqp.channel import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agentpipe.brokers.capabilities import Answer
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.connections.amqp.channel import Channel

PAGE = 500


class Purge:
    """Purges these queues, or all. It also takes others' delayed tasks, and requeues them."""

    def __init__(self, queues: Collection[str] | None) -> None:
        self._queues = queues
        # The queues that hold tasks, with the owner's name where it is known.
        self._places: list[tuple[str, str]] = []
        # The tickets of delayed tasks that were taken, by delivery tag.
        self._tickets: dict[int, str] = {}

    async def open(self, services: Services) -> None:
        """Find the queues that hold tasks, after the workers have put back unclaimed tasks."""
        registry = services.registry
        self._channel: Channel = await services.connection.session.channel()
        await registry.read()
        known = [*registry.current(), *registry.former()]
        wanted = [it for it in known if self._queues is None or it.name in self._queues]
        names = frozenset(queue.name for queue in wanted)
        await services.ask(Request("put_back", queues=names))
        owners = {source.name: it.name for it in wanted for source in registry.sources(it)}
        owners |= {later.name: "" for later in services.topology.delays() if wanted}
        depths = await services.queues.depths(list(owners))
        self._places = [(name, owners[name]) for name, depth in depths.items() if depth]

    async def take(self, _: Services) -> list[TaskSeen]:
        """The next tasks; empty at the end."""
        found: list[TaskSeen] = []
        while self._places and len(found) < PAGE:
            name, owner = self._places[0]
            delivery = await self._channel.get(name)
            if delivery is None:
                del self._places[0]
                continue
            it = Message.read(delivery, owner)
            if self._queues is None or it.queue in self._queues:
                number, submitted_at = delivery.tag, it.submitted_ms / 1000
                if it.ticket:
                    self._tickets[number] = it.ticket
                found.append(TaskSeen(number, it.task_id, it.queue, it.payload, submitted_at))
        return found

    async def settle(
        self, services: Services, tasks: Sequence[TaskSeen], answers: Sequence[Answer]
    ) -> None:
        """Put the Results into the outbox, then acknowledge the tasks."""
        messages = [services.outbox.message(it.task_id, it.result) for it in answers]
        if set(await services.connection.publisher.publish(messages)) != {"taken"}:
            raise ChannelClosed("the server refuses to store results")
        services.outbox.note(messages)
        for task in tasks:
            self._channel.ack(task.number)
        taken = (self._tickets.pop(task.number, None) for task in tasks)
        await services.tickets.take([name for name in taken if name])

    async def close(self, _: Services) -> None:
        """Requeue what was taken and not settled."""
        await self._channel.catch_up()
        self._channel.close()
