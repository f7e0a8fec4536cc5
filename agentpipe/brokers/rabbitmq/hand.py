"""Hand: tasks that an operator has taken from the queues, to look at them or to answer them.

AMQP has no looking without taking. What is not answered goes back when the store is closed.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import TaskSeen
from agentpipe.brokers.rabbitmq.asking import ask
from agentpipe.brokers.rabbitmq.names import DELAY_QUEUES, Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agentpipe.brokers.capabilities import Answer
    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.connections.amqp.channel import Channel


@dataclass(frozen=True, slots=True)
class _Taken:
    number: int
    message: Message
    tag: int
    delayed: bool

    def shown(self) -> TaskSeen:
        message = self.message
        return TaskSeen(
            self.number, message.task_id, message.queue, message.payload, message.submitted_ms / 1e3
        )


class Hand:
    """What has been taken and not been answered."""

    def __init__(self, desk: Desk, channel: Channel) -> None:
        self._desk, self._channel = desk, channel
        self._taken: dict[int, _Taken] = {}
        self._last = 0

    async def peek(self, queues: Sequence[str] | None, after: int, limit: int) -> list[TaskSeen]:
        """Up to ``limit`` tasks with higher numbers than ``after``."""
        registry = self._desk.registry
        await registry.read(0)
        known = {queue.name for queue in (*registry.current(), *registry.former())}
        wanted = known if queues is None else set(queues)
        if after < 0:  # Workers have taken some, to have them at hand.
            await ask(self._desk, {"kind": "yield", "queues": sorted(wanted)})
        found = [it for it in self._taken.values() if it.number > after]
        found = [it for it in found if it.message.queue in wanted]
        async for name, delayed in self._places(wanted & known):
            while len(found) < limit and (taken := await self._take(name, delayed=delayed)):
                if taken.message.queue in wanted:
                    found.append(taken)
        return [taken.shown() for taken in found[:limit]]

    async def find(self, task_ids: Sequence[str]) -> list[TaskSeen]:
        """Those of the tasks that lie in any queue; each that is in the way is put back behind."""
        registry = self._desk.registry
        await registry.read(0)
        wanted = set(task_ids)
        known = {queue.name for queue in (*registry.current(), *registry.former())}
        found = {it.message.task_id: it for it in self._taken.values()}
        others: list[_Taken] = []
        async for name, delayed in self._places(known):
            while wanted - found.keys() and (taken := await self._take(name, delayed=delayed)):
                found[taken.message.task_id] = taken
                if taken.message.task_id not in wanted:
                    others.append(taken)
        await self._put_back(others)
        return [found[task_id].shown() for task_id in task_ids if task_id in found]

    async def _places(self, queues: set[str]) -> AsyncIterator[tuple[str, bool]]:
        """Where anything lies, and whether it is delayed there; what came back comes first."""
        agents = [self._desk.sources(self._desk.limits(name)) for name in sorted(queues)]
        sources = [back for back, *_ in agents] + [it for _, *others in agents for it in others]
        names = self._desk.names
        delays = [names.later(level) for level in range(DELAY_QUEUES)]
        if not queues or await self._desk.count(delays[0].name) is None:
            delays = []  # They are made all at once, in this order.
        places = [*((it.name, False) for it in sources), *((it.name, True) for it in delays)]
        # A queue that is not there would end the channel.
        counts = await self._desk.counts([name for name, _ in places])
        for name, delayed in places:
            if counts.get(name):
                yield name, delayed

    async def _take(self, name: str, *, delayed: bool) -> _Taken | None:
        delivery = await self._channel.get(name)
        if delivery is None:
            return None
        self._last += 1
        queue = str(delivery.headers.get("agentpipe-queue", ""))
        fallback = f"foreign-{uuid.uuid4().hex}"
        message = Message.read(queue, delivery.body, delivery.headers, fallback)
        taken = _Taken(self._last, message, delivery.tag, delayed)
        self._taken[taken.number] = taken
        return taken

    async def answer(self, answers: Sequence[Answer]) -> list[bool]:
        """Answer those of them that are in the hand."""
        found = {taken.message.task_id: taken for taken in self._taken.values()}
        mine = [(answer, found.pop(answer.task_id, None)) for answer in answers]
        outbox = self._desk.outbox
        letters = [outbox.letter(answer.task_id, answer.result) for answer, taken in mine if taken]
        await self._channel.publish(letters)
        outbox.has_put(letters)
        for _, taken in mine:
            if taken is not None:
                del self._taken[taken.number]
                self._channel.ack(taken.tag)
        return [taken is not None for _, taken in mine]

    async def give_back(self) -> None:
        """Put back what was not answered; a copy, for what is requeued looks like a crash."""
        await self._put_back(list(self._taken.values()))

    async def _put_back(self, taken: Sequence[_Taken]) -> None:
        waiting = [it for it in taken if not it.delayed]
        names = self._desk.names
        await self._channel.publish([it.message.to(names.back(it.message.queue)) for it in waiting])
        for each in taken:
            del self._taken[each.number]
            if each.delayed:
                self._channel.requeue(each.tag)
            else:
                self._channel.ack(each.tag)
