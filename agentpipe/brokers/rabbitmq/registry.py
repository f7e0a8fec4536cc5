"""Registry: which collections and queues there are, and within which limits.

AMQP has no list of queues, and a queue whose bound has changed is another queue, which somebody
has to know of. The registry is one message in a durable queue. Who reads or changes it holds an
exclusive queue meanwhile; a crash in the middle leaves two messages, which the next reader merges.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import orjson

from agentpipe.brokers.rabbitmq.lock import locked
from agentpipe.brokers.records import Queue
from agentpipe.connections.amqp.message import Letter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from agentpipe.brokers.rabbitmq.names import Names
    from agentpipe.connections.amqp.channel import Channel


@dataclass(frozen=True, slots=True)
class Entry:
    """A collection with its queues in order, or a queue outside any collection.

    Attributes:
        former: Queues that have left; tasks may wait there still.
        bounds: All that its queues have had; the last one holds.
        noted_at: Unix seconds.
        gates: Of each queue, with its limit; empty where none of them has one.
        all_paused: The whole collection is.
        paused: Queues that are paused on their own.
        paused_at: Unix seconds; when the two were changed.
    """

    collection: str | None
    queues: tuple[str, ...]
    bounds: tuple[int, ...]
    concurrency: int
    max_crashes: int
    former: tuple[str, ...] = ()
    noted_at: float = 0.0
    gates: tuple[tuple[str, int] | None, ...] = ()
    all_paused: bool = False
    paused: tuple[str, ...] = ()
    paused_at: float = 0.0

    @classmethod
    def of(cls, queues: Iterable[Queue]) -> list[Self]:
        """Entries that say the same as ``queues``; a collection's limits are its first queue's."""
        found: dict[tuple[str | None, str], list[Queue]] = defaultdict(list)
        for queue in queues:
            found[(queue.collection, "" if queue.collection else queue.name)].append(queue)
        now = time.time()
        return [
            cls(
                mine[0].collection,
                tuple(queue.name for queue in mine),
                (mine[0].max_waiting,),
                mine[0].concurrency,
                mine[0].max_crashes,
                noted_at=now,
                gates=_gates_of(mine),
            )
            for mine in found.values()
        ]

    @classmethod
    def decode(cls, record: Mapping[str, Any]) -> Self:
        """From the registry's JSON."""
        fields = {name: record[name] for name in cls.__slots__ if name in record}
        for name in ("queues", "bounds", "former", "paused"):
            fields[name] = tuple(fields.get(name, ()))
        gates = fields.get("gates", ())
        fields["gates"] = tuple(None if gate is None else tuple(gate) for gate in gates)
        return cls(**fields)

    @property
    def key(self) -> str:
        """What there is one entry of."""
        return f"collection {self.collection}" if self.collection else self.queues[0]

    def after(self, earlier: Entry) -> Self:
        """Itself, with what must not be forgotten of an earlier entry."""
        bounds = (*(bound for bound in earlier.bounds if bound != self.bounds[-1]), *self.bounds)
        before = dict.fromkeys((*earlier.former, *earlier.queues, *self.former))
        former = tuple(name for name in before if name not in self.queues)
        pauses = earlier if earlier.paused_at > self.paused_at else self
        return replace(
            self,
            bounds=tuple(dict.fromkeys(reversed(bounds)))[::-1],
            former=former,
            all_paused=pauses.all_paused,
            paused=pauses.paused,
            paused_at=pauses.paused_at,
        )

    def with_pauses(
        self, queues: Collection[str], collections: Collection[str], *, paused: bool
    ) -> Self:
        """Itself, with what of these is its own paused or resumed."""
        mine = {name for name in (*self.queues, *self.former) if name in queues}
        names = {*self.paused, *mine} if paused else {*self.paused} - mine
        whole = paused if self.collection in collections else self.all_paused
        if (whole, names) == (self.all_paused, {*self.paused}):
            return self
        return replace(self, all_paused=whole, paused=tuple(sorted(names)), paused_at=time.time())

    def says(self, other: Entry) -> bool:
        """Whether it tells nothing but what ``other`` tells."""
        return self._limits == other._limits

    @property
    def _limits(self) -> tuple[Any, ...]:
        return self.queues, self.bounds[-1], self.concurrency, self.max_crashes, self.gates

    def current(self) -> list[Queue]:
        """Its queues, in order."""
        gates = self.gates or (None,) * len(self.queues)
        return [self.queue(*pair) for pair in zip(self.queues, gates, strict=True)]

    def queue(self, name: str, gate: tuple[str, int] | None = None) -> Queue:
        """One of its queues."""
        limits = (self.bounds[-1], self.concurrency, self.max_crashes)
        return Queue(name, self.collection, *limits, *(gate or ()))


def _gates_of(queues: Sequence[Queue]) -> tuple[tuple[str, int] | None, ...]:
    gates = [
        None
        if each.concurrency_group is None
        else (each.concurrency_group, each.concurrency_group_limit)
        for each in queues
    ]
    return tuple(gates) if any(gates) else ()


class Registry:
    """What one process knows of the registry."""

    def __init__(self, names: Names, connection: Callable[[], Awaitable[Channel]]) -> None:
        self._names, self._channel = names, connection
        self._entries: dict[str, Entry] = {}
        self._by_queue: dict[str, Entry] = {}
        self._gates: dict[str, tuple[str, int] | None] = {}
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")

    def ring(self, collection: str) -> list[Queue]:
        """The queues of a collection, in order."""
        entry = self._entries.get(f"collection {collection}")
        return entry.current() if entry else []

    def queue(self, name: str) -> Queue | None:
        """A queue, whether or not it has left its collection."""
        entry = self._by_queue.get(name)
        return None if entry is None else entry.queue(name, self._gates.get(name))

    def pauses(self, queue: str) -> tuple[bool, bool]:
        """Whether it is paused itself, and whether its collection is."""
        entry = self._by_queue.get(queue)
        return (False, False) if entry is None else (queue in entry.paused, entry.all_paused)

    def is_paused(self, queue: str) -> bool:
        """Whether nobody may take its tasks."""
        return any(self.pauses(queue))

    def bounds(self, queue: str) -> tuple[int, ...]:
        """All bounds that it has had: tasks may wait under each."""
        entry = self._by_queue.get(queue)
        return entry.bounds if entry else ()

    def current(self) -> list[Queue]:
        """All queues that belong to their collection now, or to none."""
        return [queue for entry in self._entries.values() for queue in entry.current()]

    def former(self) -> list[Queue]:
        """All queues that have left their collection."""
        gone = [name for entry in self._entries.values() for name in entry.former]
        return [queue for name in gone if (queue := self.queue(name)) is not None]

    async def read(self, max_age_s: float = float("inf")) -> None:
        """Read it, unless that was done within ``max_age_s``."""
        async with self._reading:
            if time.monotonic() - self._read_at >= max_age_s or not self._entries:
                await self._exchange(())

    async def note(self, entries: Sequence[Entry]) -> bool:
        """Enter what it does not say yet; whether there was anything."""
        async with self._reading:
            if all(self._knows(entry) for entry in entries):
                return False
            return await self._exchange(entries)

    async def pause(
        self, queues: Collection[str], collections: Collection[str], *, paused: bool
    ) -> None:
        """Note what is paused, or not any more."""

        def change(entries: dict[str, Entry]) -> None:
            for key, entry in entries.items():
                entries[key] = entry.with_pauses(queues, collections, paused=paused)

        async with self._reading:
            await self._exchange((), change)

    def _knows(self, entry: Entry) -> bool:
        return entry.key in self._entries and entry.says(self._entries[entry.key])

    async def _exchange(
        self, entries: Sequence[Entry], change: Callable[[dict[str, Entry]], None] | None = None
    ) -> bool:
        async with locked(self._channel, f"{self._names.registry.name}.lock") as channel:
            try:
                return await self._read_and_write(channel, entries, change)
            finally:
                self._read_at = time.monotonic()

    async def _read_and_write(
        self,
        channel: Channel,
        entries: Sequence[Entry],
        change: Callable[[dict[str, Entry]], None] | None,
    ) -> bool:
        await channel.declare(self._names.registry)
        tags, found = [], dict[str, Entry]()
        while delivery := await channel.get(self._names.registry.name):
            tags.append(delivery.tag)
            for record in orjson.loads(delivery.body):
                _add(found, Entry.decode(record))
        before = dict(found)
        for entry in entries:
            if entry.key not in found or not entry.says(found[entry.key]):
                _add(found, entry)
        if change is not None:
            change(found)
        self._entries = found
        self._by_queue = {
            name: entry for entry in found.values() for name in (*entry.former, *entry.queues)
        }
        self._gates = {
            name: gate
            for entry in found.values()
            for name, gate in zip(entry.queues, entry.gates, strict=False)
        }
        changed = found != before
        if changed or len(tags) > 1:
            body = orjson.dumps(list(found.values()))
            await channel.publish([Letter(self._names.registry.name, body, {})])
        for tag in tags:
            if changed or len(tags) > 1:
                channel.ack(tag)
            else:
                channel.requeue(tag)
        return changed


def _add(entries: dict[str, Entry], entry: Entry) -> None:
    """Put it in; of two about the same, the later one holds and remembers the other."""
    known = entries.get(entry.key)
    if known is not None and known.noted_at > entry.noted_at:
        known, entry = entry, known
    entries[entry.key] = entry if known is None else entry.after(known)
