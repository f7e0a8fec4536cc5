"""Registry: which collections and queues there are, and within which limits.

A stream that all processes read from its start: AMQP has no list of queues, and a queue whose
bound has changed is another queue, which somebody has to know of.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson

from agentpipe.brokers.rabbitmq.names import Letter
from agentpipe.brokers.store import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.brokers.rabbitmq.connection import Channel, Delivery
    from agentpipe.brokers.rabbitmq.names import Names

PREFETCH = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A collection with its queues in order, or a queue outside any collection."""

    collection: str | None
    queues: tuple[str, ...]
    max_waiting: int
    concurrency: int
    max_crashes: int

    @classmethod
    def of(cls, queues: Sequence[Queue]) -> list[Self]:
        """Entries that say the same as ``queues``."""
        found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for queue in queues:
            limits = (queue.max_waiting, queue.concurrency, queue.max_crashes)
            alone = queue.name if queue.collection is None else None
            found[(queue.collection, alone, *limits)].append(queue.name)
        return [cls(key[0], tuple(names), *key[2:]) for key, names in found.items()]

    def each(self) -> list[Queue]:
        """Its queues."""
        limits = (self.max_waiting, self.concurrency, self.max_crashes)
        return [Queue(name, self.collection, *limits) for name in self.queues]

    def encode(self) -> bytes:
        """As it lies in the stream."""
        return orjson.dumps(
            {name: getattr(self, name) for name in ("collection", "queues", *_LIMITS)}
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """What ``encode`` wrote."""
        fields = orjson.loads(body)
        limits = (int(fields[name]) for name in _LIMITS)
        return cls(fields["collection"], tuple(fields["queues"]), *limits)


_LIMITS = ("max_waiting", "concurrency", "max_crashes")


class Registry:
    """What has been read of the stream so far; ``changed`` is called with each entry."""

    def __init__(self, names: Names, changed: Callable[[Entry], None]) -> None:
        self._names, self._changed = names, changed
        self._latest: dict[str | None, Entry] = {}
        self._bounds: dict[str, list[int]] = defaultdict(list)
        self.queues: dict[str, Queue] = {}
        self.read = 0

    async def follow(self, channel: Channel) -> int:
        """Read it from the start and go on; returns how many entries there are now."""
        self._channel = channel
        there = await channel.declare(self._names.registry)
        offset = {"x-stream-offset": "first"}
        await channel.consume(self._names.registry.name, PREFETCH, self._receive, **offset)
        return there

    def bounds(self, queue: str) -> list[int]:
        """All bounds that this queue has had: tasks may wait under each."""
        return self._bounds[queue]

    def knows(self, entry: Entry) -> bool:
        """Whether this is what was last said of its queues."""
        return all(self.queues.get(queue.name) == queue for queue in entry.each()) and (
            entry.collection is None or self._latest.get(entry.collection) == entry
        )

    def current(self) -> list[Queue]:
        """The queues that belong to their collection now, or to none."""
        return [
            queue
            for queue in self.queues.values()
            if queue.collection is None or queue.name in self._latest[queue.collection].queues
        ]

    async def append(self, channel: Channel, entries: Iterable[Entry]) -> None:
        """Tell everybody, and those who come later."""
        key = self._names.registry.name
        await channel.publish([Letter(key, entry.encode(), {}) for entry in entries])

    def _receive(self, delivery: Delivery) -> None:
        self._channel.ack(delivery.tag)
        self.read += 1
        try:
            entry = Entry.decode(delivery.body)
        except (ValueError, KeyError, TypeError):
            return  # Not ours.
        self._latest[entry.collection] = entry
        for queue in entry.each():
            self.queues[queue.name] = queue
            if queue.max_waiting not in self._bounds[queue.name]:
                self._bounds[queue.name].append(queue.max_waiting)
        self._changed(entry)
