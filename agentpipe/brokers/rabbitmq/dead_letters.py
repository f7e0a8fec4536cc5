"""DeadLetters: tasks that were given up, in a durable queue.

A queue can only be read by taking from it: while one process looks, another one sees less. What
was looked at stays unacknowledged for a moment, so that the next page goes on from there and what
is dropped need not be searched for; then it goes back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from agentpipe.brokers.dead_letter import DeadLetter, DeadPage, DeadSummary
from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.message import OutgoingMessage
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agentpipe.brokers.dead_letter import DeadFilter
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.brokers.records import Refusal, Settlement
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session

# Of one call, so that it is answered in time and holds little in memory.
PORTION = 500
PORTION_BYTES = 8 * 1024 * 1024
HOLD_S = 5.0


class DeadLetters:
    """The queue of dead letters; task and Result lie in the body, one after the other."""

    def __init__(self, topology: Topology, session: Session, kind: str) -> None:
        """``kind`` names the queue: ``dead``, or ``undeliverable`` for what the sink refuses."""
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
        """A task on its way there; without its Result where the server takes not both."""
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
        """A Result that the sink refuses on its way there."""
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
        """The name of its queue."""
        return self._queue.name

    @property
    def looked_at(self) -> int:
        """How many are not back in the queue."""
        return sum(map(len, self._tags.values()))

    async def page(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """What a portion of the queue has; from its beginning, unless the last page ended there."""
        _moment_ms(after)
        async with self._looking:
            try:
                return await self._page(wanted, after, limit)
            finally:  # Not before: what is taken later would stay here.
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
        """Begin anew, unless the place is where the last look ended."""
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
        """Whether it comes after the place that was asked for, which the look goes past here."""
        place = f"{round(letter.died_at * 1000)}-{letter.task_id}"
        if self._sought:
            if place == self._sought:
                self._sought = ""
            return False
        self._place = place
        return letter.died_at * 1000 >= self._since_ms

    def _seek_by_time(self, after: str) -> None:
        """The letter of that place was dropped: begin anew with those that died no earlier."""
        self.give_back()
        self._place, self._since_ms = after, _moment_ms(after)

    def give_back(self) -> None:
        """Put back all that was looked at and not dropped."""
        if self._channel is not None and self._tags:
            self._channel.requeue_all()
        self._forget()

    def read(self, task_ids: Collection[str]) -> list[DeadLetter]:
        """Those of them that the last page looked at, whole."""
        return [self._read[task_id] for task_id in task_ids if task_id in self._read]

    async def drop(self, task_ids: Collection[str]) -> set[str]:
        """Drop those of them that were looked at and are not back; returns which."""
        if self._channel is None or not self._channel.is_open:
            return set()
        dropped = self._tags.keys() & set(task_ids)
        for tag in chain.from_iterable(map(self._tags.pop, dropped)):
            self._channel.ack(tag)
        await self._channel.catch_up()
        return dropped

    async def close(self) -> None:
        """Give back what was looked at, and wait until the server has it."""
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
        raise ConfigError(f"{place[:40]!r} does not come from a page of this store's dead letters")
    return int(moment_ms or 0)
