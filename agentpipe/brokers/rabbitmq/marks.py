"""Marks: tasks that were cancelled while they ran, so that none of them runs again.

All workers that live hear of one and keep it in mind. The one that runs it may die before it has
ended it, and with it the last worker there is: so marks lie in a durable queue as well, which each
worker reads when it comes. A task is told from a later one of the same id by when it was sent.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.rabbitmq.asking import ask_all
from agentpipe.brokers.rabbitmq.lock import locked
from agentpipe.brokers.rabbitmq.roster import note_of_cancelling
from agentpipe.connections.amqp.message import Letter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agentpipe.brokers.capabilities import Fate
    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.rabbitmq.names import Message, Names
    from agentpipe.connections.amqp.channel import Channel

# So long a task that was told to end may lie somewhere before a worker meets it again.
KEPT_MS = 7 * 86_400_000
# More messages than these are made into one.
MANY = 20


class Marks:
    """What one process knows of them."""

    def __init__(self, names: Names, connection: Callable[[], Awaitable[Channel]]) -> None:
        self._queue, self._connection = names.cancelled, connection
        self._sent_ms: dict[str, int] = {}
        self._reading = asyncio.Lock()

    def __contains__(self, message: Message) -> bool:
        return self._sent_ms.get(message.task_id) == message.submitted_ms

    def hear(self, sent_ms: Mapping[str, int]) -> None:
        """These have been told to end; by their ids, when each was sent."""
        self._sent_ms.update(sent_ms)

    async def keep(self, sent_ms: Mapping[str, int]) -> None:
        """Have those know of it, too, who come later."""
        now = _now_ms()
        channel = await self._connection()
        try:
            await channel.declare(self._queue)
            await channel.publish([self._letter({it: [sent_ms[it], now] for it in sent_ms})])
        finally:
            channel.close()

    async def read(self) -> None:
        """Learn what was kept."""
        async with self._reading, locked(self._connection, f"{self._queue.name}.lock") as channel:
            await channel.declare(self._queue)
            tags, kept = [], dict[str, list[int]]()
            while delivery := await channel.get(self._queue.name):
                tags.append(delivery.tag)
                kept.update(orjson.loads(delivery.body))
            oldest = _now_ms() - KEPT_MS
            kept = {it: times for it, times in kept.items() if times[1] >= oldest}
            await self._put_back(channel, tags, kept)
        self.hear({task_id: sent_ms for task_id, (sent_ms, _) in kept.items()})

    async def _put_back(
        self, channel: Channel, tags: Sequence[int], kept: Mapping[str, list[int]]
    ) -> None:
        merging = len(tags) > MANY
        if merging:
            await channel.publish([self._letter(kept)])
        for tag in tags:
            if merging:
                channel.ack(tag)
            else:
                channel.requeue(tag)

    def _letter(self, kept: Mapping[str, list[int]]) -> Letter:
        return Letter(self._queue.name, orjson.dumps(kept), {}, expires_ms=KEPT_MS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def cancel(desk: Desk, task_ids: Sequence[str]) -> list[Fate]:
    """Have the workers end these tasks, or put back what they have not begun; see the seam."""
    told = await ask_all(desk, {"kind": "cancel", "ids": list(task_ids)})
    running = {it: sent_ms for each in told for it, sent_ms in each["running"].items()}
    fates: dict[str, Fate] = {it: "waiting" for each in told for it in each["waiting"]}
    if running:
        await desk.marks.keep(running)
        await desk.publisher.publish([note_of_cancelling(running, desk.names.crew)])
        fates |= dict.fromkeys(running, "signalled")
    return [fates.get(task_id, "unknown") for task_id in task_ids]
