"""DeadLetters: dead tasks in a durable queue.

AMQP can read a queue only by taking messages: while one process reads, another sees fewer. Messages
that were read stay unacknowledged for a moment, so the next page continues from there and a drop
needs no search; then they are requeued.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from agentpipe.brokers.dead_letter import DeadLetter, DeadPage, DeadSummary, foreign_cursor
from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.message import OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agentpipe.brokers.dead_letter import DeadFilter
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.brokers.records import Refusal, Settlement
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session

# Limits per call, which bound the time to answer and the memory used.
PORTION = 500
PORTION_BYTES = 8 * 1024 * 1024
HOLD_S = 5.0


class DeadLetters:
    """The queue of dead letters; a body holds the task, followed by its Result."""

    def __init__(self, topology: Topology, session: Session, kind: str) -> None:
        """``kind`` names the queue: ``dead``, or ``undeliverable`` for refused Results."""
        self._queue, self._session = topology.shared(kind), session
        self._channel: Channel | None = None
        self._looking = asyncio.Lock()
        self._release: asyncio.TimerHandle | None = None
        self._forget()

    def _forget(self) -> None:
        self._tags: defaultdict[str, list[int]] = defaultdict(list)
        self._read: dict[str, DeadLetter] = {}
        self._bytes = 0
        self._place = self._sought = ""
        self._since_ms = 0

    def message(
        self, settlement: Settlement, collection: str | None, fits: Callable[[int], bool]
    ) -> OutgoingMessage:
        """The dead letter of a task; omits the Result if the server does not accept both."""
        claim, result = settlement.claim, settlement.result
        payload = settlement.payload or claim.payload
        if not fits(len(payload) + len(result)):
            result = b""
        headers = {
            "agentpipe-id": claim.task_id,
            "agentpipe-queue": claim.queue,
            "agentpipe-collection": collection or "",
            "agentpipe-payload-bytes": len(payload),
            "agentpipe-outcome": settlement.outcome,
            "agentpipe-reason": settlement.reason,
            "agentpipe-died-ms": now_ms(),
        }
        return OutgoingMessage(self._queue.name, payload + result, headers)

    def refused(self, refusal: Refusal) -> OutgoingMessage:
        """The dead letter of a Result that the sink refused."""
        headers = {
            "agentpipe-id": refusal.record.task_id,
            "agentpipe-queue": refusal.queue,
            "agentpipe-collection": refusal.collection or "",
            "agentpipe-payload-bytes": 0,
            "agentpipe-outcome": refusal.outcome,
            "agentpipe-reason": refusal.reason,
            "agentpipe-died-ms": now_ms(),
        }
        return OutgoingMessage(self._queue.name, refusal.record.payload, headers)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._queue.name

    @property
    def looked_at(self) -> int:
        """The number of letters that were read and are not requeued."""
        return sum(map(len, self._tags.values()))

    async def page(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """A page of letters, from the queue's beginning or from where the last page ended."""
        _moment_ms(after)
        async with self._looking:
            try:
                return await self._page(wanted, after, limit)
            finally:  # Set the timer last: what is taken after it fires would stay here.
                loop = asyncio.get_running_loop()
                self._release = loop.call_later(HOLD_S, self.give_back)

    async def _page(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        channel = await self._look(after)
        found: list[DeadSummary] = []
        while len(found) < limit and not self._is_full():
            letter = await self._take(channel)
            if letter is None and not self._sought:
                return DeadPage(tuple(found), None)
            if letter is None:
                self._seek_by_time(after)
            elif self._is_behind(letter) and wanted.fits(letter):
                found.append(letter.summary)
        more = await channel.declare(self._queue) > 0 or self._sought
        return DeadPage(tuple(found), self._place if more else None)

    async def _look(self, after: str) -> Channel:
        """Start over, unless ``after`` is where the last page ended."""
        if self._release is not None:
            self._release.cancel()
        if self._channel is None or not self._channel.is_open:
            self._channel = await self._session.channel()
            await self._channel.declare(self._queue)
            self._forget()
        if not after or after != self._place:
            self.give_back()
            self._place = self._sought = after
        self._read, self._bytes = {}, 0
        return self._channel

    async def _take(self, channel: Channel) -> DeadLetter | None:
        delivery = await channel.get(self._queue.name)
        if delivery is None:
            return None
        letter = _letter(delivery)
        self._tags[letter.task_id].append(delivery.tag)
        self._read[letter.task_id] = letter
        self._bytes += len(delivery.body)
        return letter

    def _is_full(self) -> bool:
        return len(self._read) >= PORTION or self._bytes >= PORTION_BYTES

    def _is_behind(self, letter: DeadSummary) -> bool:
        """Whether the letter comes after the requested place; advances past it."""
        place = f"{round(letter.died_at * 1000)}-{letter.task_id}"
        if self._sought:
            if place == self._sought:
                self._sought = ""
            return False
        self._place = place
        return letter.died_at * 1000 >= self._since_ms

    def _seek_by_time(self, after: str) -> None:
        """The letter at that place is gone: start over, skipping those that died earlier."""
        self.give_back()
        self._place, self._since_ms = after, _moment_ms(after)

    def give_back(self) -> None:
        """Requeue everything that was read and not dropped."""
        if self._channel is not None and self._tags:
            self._channel.requeue_all()
        self._forget()

    def read(self, task_ids: Collection[str]) -> list[DeadLetter]:
        """The full letters among these that the last page read."""
        return [self._read[task_id] for task_id in task_ids if task_id in self._read]

    async def drop(self, task_ids: Collection[str]) -> set[str]:
        """Drop those of these letters that were read and not requeued; returns their ids."""
        if self._channel is None or not self._channel.is_open:
            return set()
        dropped = self._tags.keys() & set(task_ids)
        for tag in chain.from_iterable(map(self._tags.pop, dropped)):
            self._channel.ack(tag)
        await self._channel.catch_up()
        return dropped

    async def close(self) -> None:
        """Requeue everything that was read, and wait until the server has done it."""
        self.give_back()
        if self._channel is not None:
            with suppress(ChannelClosed):
                await self._channel.catch_up()


def _letter(delivery: Delivery) -> DeadLetter:
    headers = delivery.headers
    length = int(headers.get("agentpipe-payload-bytes", len(delivery.body)))
    return DeadLetter(
        str(headers.get("agentpipe-id", "")),
        str(headers.get("agentpipe-queue", "")),
        headers.get("agentpipe-collection") or None,
        str(headers.get("agentpipe-outcome", "")),
        str(headers.get("agentpipe-reason", "")),
        int(headers.get("agentpipe-died-ms", 0)) / 1000,
        delivery.body[:length],
        delivery.body[length:],
    )


def _moment_ms(place: str) -> int:
    moment_ms, dash, _ = place.partition("-")
    if place and not (dash and moment_ms.isdecimal()):
        raise foreign_cursor(place)
    return int(moment_ms or 0)
