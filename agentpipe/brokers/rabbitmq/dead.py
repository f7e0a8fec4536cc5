"""DeadLetters: tasks that were given up, in a durable queue.

A queue can only be read by taking from it: while one process looks, another one sees less.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.amqp.letter import Letter
from agentpipe.brokers.store import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.amqp.channel import Channel, Delivery
    from agentpipe.brokers.rabbitmq.names import Names
    from agentpipe.brokers.store import Settlement


class DeadLetters:
    """The queue of dead letters; task and Result lie in the body, one after the other."""

    def __init__(self, names: Names) -> None:
        self._queue = names.dead

    def letter(self, settlement: Settlement, collection: str | None) -> Letter:
        """A task on its way there."""
        claim = settlement.claim
        headers = {
            "agentpipe-id": claim.task_id,
            "agentpipe-queue": claim.queue,
            "agentpipe-collection": collection or "",
            "agentpipe-payload-bytes": len(claim.payload),
            "agentpipe-outcome": settlement.outcome,
            "agentpipe-reason": settlement.reason,
            "agentpipe-died-ms": time.time_ns() // 1_000_000,
        }
        return Letter(self._queue.name, claim.payload + settlement.result, headers)

    async def count(self, channel: Channel) -> int:
        """How many nobody is looking at."""
        return await channel.declare(self._queue)

    async def read(
        self, channel: Channel, wanted: Callable[[DeadLetter], bool], *, drop: bool = False
    ) -> list[DeadLetter]:
        """Those that are wanted, oldest first; the others stay in any case."""
        await channel.declare(self._queue)
        found, kept = [], []
        while delivery := await channel.get(self._queue.name):
            letter = _read(delivery)
            is_wanted = wanted(letter)
            if is_wanted:
                found.append(letter)
            if is_wanted and drop:
                channel.ack(delivery.tag)
            else:
                kept.append(delivery.tag)
        for tag in kept:
            channel.requeue(tag)
        return found


def _read(delivery: Delivery) -> DeadLetter:
    headers = delivery.headers
    length = int(headers.get("agentpipe-payload-bytes", len(delivery.body)))
    return DeadLetter(
        str(headers.get("agentpipe-id", "")),
        str(headers.get("agentpipe-queue", "")),
        headers.get("agentpipe-collection") or None,
        delivery.body[:length],
        delivery.body[length:],
        str(headers.get("agentpipe-outcome", "")),
        str(headers.get("agentpipe-reason", "")),
        int(headers.get("agentpipe-died-ms", 0)) / 1000,
    )
