"""Registry: the collections and queues, their limits, and what is paused.

AMQP lists no queues, and a queue with a changed bound is a different queue: the registry remembers
both. What this process has declared takes precedence over the registry.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from agentpipe.brokers.rabbitmq.shared_state import SharedState
from agentpipe.brokers.rabbitmq.topology import unit_of
from agentpipe.brokers.records import Queue, Source, is_outdated
from agentpipe.brokers.statistics import SIDES, Declared

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.amqp.message import Declaration

# By how much a change is later than one whose clock is ahead.
STEP_S = 0.001


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """A collection with its queues in order, or a queue outside any collection.

    Attributes:
        former: Queues that have left; tasks can still wait there.
        bounds: All bounds that its queues have had; the last one is current.
        noted_at: When it was declared, in Unix seconds; always later than what it replaces.
        gates: Each queue's concurrency group with its limit; empty if no queue has one.
        all_paused: Whether the whole collection is paused.
        paused: Queues that are paused individually.
        paused_at: When the pauses last changed, in Unix seconds.
        reasons: The pause reasons, by queue; the whole collection has an empty name.
        sources: Who has declared it: the last ``sender``, the last ``worker``, and the one that the
            current ``group`` comes from.
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
    reasons: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def of(cls, queues: Iterable[Queue]) -> list[Self]:
        """The entries for ``queues``; a collection's limits are its first queue's."""
        found: dict[tuple[str | None, str], list[Queue]] = defaultdict(list)
        for queue in queues:
            found[(queue.collection, "" if queue.collection else queue.name)].append(queue)
        now = time.time()
        gates = {key: tuple(queue.group for queue in mine) for key, mine in found.items()}
        return [
            cls(
                mine[0].collection,
                tuple(queue.name for queue in mine),
                (mine[0].max_waiting,),
                mine[0].concurrency,
                mine[0].max_crashes,
                noted_at=now,
                gates=gates[key] if any(gates[key]) else (),
                sources=_sources_of(mine[0].source),
            )
            for key, mine in found.items()
        ]

    @classmethod
    def decode(cls, record: Mapping[str, Any]) -> Self:
        """Decode JSON; raises if it is not an entry."""
        fields = {name: record[name] for name in cls.__slots__ if name in record}
        for name in ("queues", "bounds", "former", "paused"):
            fields[name] = tuple(fields.get(name, ()))
        gates = fields.get("gates", ())
        fields["gates"] = tuple(None if gate is None else tuple(gate) for gate in gates)
        fields["sources"] = {by: Source(**it) for by, it in fields.get("sources", {}).items()}
        if not all(isinstance(it, str) for it in (*fields["queues"], *fields["former"])):
            raise TypeError("a queue's name")
        if not all(isinstance(it, int) for it in (fields["bounds"][-1], *fields["bounds"])):
            raise TypeError("a bound")
        entry = cls(**fields)
        numbers = (entry.concurrency, entry.max_crashes, entry.noted_at, entry.paused_at)
        if not all(isinstance(it, int | float) for it in numbers):
            raise TypeError("a limit or a time")
        return entry

    @property
    def key(self) -> str:
        """The collection, or the queue outside any; two entries with the same key are merged."""
        return f"collection {self.collection}" if self.collection else self.queues[0]

    def after(self, earlier: RegistryEntry) -> Self:
        """A copy that keeps the history of an earlier entry."""
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
            reasons=pauses.reasons,
            sources={**earlier.sources, **self.sources},
        )

    def declared_by(self, given: RegistryEntry) -> RegistryEntry:
        """This entry after ``given`` is declared; an outdated one contributes only its sender."""
        if self._outdates(given):
            return replace(self, sources={**self.sources, "sender": given.sources["sender"]})
        return replace(given, noted_at=_later_than(self.noted_at)).after(self)

    def _outdates(self, given: RegistryEntry) -> bool:
        return is_outdated(given.sources.get("sender"), self.sources.get("group"))

    def with_pauses(
        self,
        queues: Collection[str],
        collections: Collection[str],
        *,
        paused: bool,
        reason: str = "",
    ) -> Self:
        """A copy with those of these queues and collections that are its own paused or resumed."""
        mine = {name for name in (*self.queues, *self.former) if name in queues}
        names = {*self.paused, *mine} if paused else {*self.paused} - mine
        whole = paused if self.collection in collections else self.all_paused
        meant = mine | ({""} if self.collection in collections else set())
        kept = {name: why for name, why in self.reasons.items() if paused or name not in meant}
        reasons = kept | (dict.fromkeys(meant, reason) if paused and reason else {})
        if (whole, names, reasons) == (self.all_paused, {*self.paused}, self.reasons):
            return self
        return replace(
            self,
            all_paused=whole,
            paused=tuple(sorted(names)),
            paused_at=_later_than(self.paused_at),
            reasons=reasons,
        )

    def says(self, other: RegistryEntry) -> bool:
        """Whether declaring this entry would add nothing to ``other``."""
        if other._outdates(self):
            return self.sources["sender"] == other.sources.get("sender")
        return self._limits == other._limits and self.sources.items() <= other.sources.items()

    @property
    def _limits(self) -> tuple[Any, ...]:
        return self.queues, self.bounds[-1], self.concurrency, self.max_crashes, self.gates

    def current(self) -> list[Queue]:
        """Its queues, in order."""
        gates = self.gates or (None,) * len(self.queues)
        return [self._queue(*pair) for pair in zip(self.queues, gates, strict=True)]

    def left(self) -> list[Queue]:
        """Its former queues; they belong to no concurrency group."""
        return [self._queue(name, None) for name in self.former]

    def _queue(self, name: str, gate: tuple[str, int] | None) -> Queue:
        limits = (self.bounds[-1], self.concurrency, self.max_crashes)
        return Queue(name, self.collection, *limits, *(gate or ()))


def _later_than(moment: float) -> float:
    """Now, but after ``moment``, which can be of a clock that is ahead of this one."""
    return max(time.time(), moment + STEP_S)


def merged(earlier: RegistryEntry, later: RegistryEntry) -> RegistryEntry:
    """Merge two entries with the same key: the later one, with the history of the other."""
    if earlier.noted_at > later.noted_at:
        earlier, later = later, earlier
    return later.after(earlier)


def _sources_of(source: Source | None) -> dict[str, Source]:
    if source is None:
        return {}
    return {"worker" if source.serves else "sender": source, "group": source}


class Registry:
    """The registry as one process knows it."""

    def __init__(self, session: Session, topology: Topology, declared: Mapping[str, Queue]) -> None:
        self._topology, self._declared = topology, declared
        self._state = SharedState(
            session,
            topology.shared("registry"),
            merged,
            lambda records: {it.key: it for it in map(RegistryEntry.decode, records)},
            lambda entries: list(entries.values()),
        )
        self._entries: dict[str, RegistryEntry] = {}
        self._by_queue: dict[str, RegistryEntry] = {}
        self._queues: dict[str, Queue] = {}
        self._read_at = float("-inf")

    def limits(self, name: str) -> Queue:
        """The queue as it is declared or registered; otherwise with default limits."""
        return self._known(name) or Queue(name)

    def _known(self, name: str) -> Queue | None:
        return self._declared.get(name) or self._queues.get(name)

    def unit_of(self, name: str) -> str:
        """The unit that one worker serves as a whole, and that includes this queue."""
        return unit_of(self.limits(name))

    def targets(self, target: str, *, round_robin: bool) -> list[Queue]:
        """The queues that an offer can go to, in order."""
        if not round_robin:
            known = self._known(target)
            return [known] if known else []
        mine = [it for it in self._declared.values() if it.collection == target]
        sends = not mine or (mine[0].source is not None and not mine[0].source.serves)
        return (self.agents_of(target) or mine) if sends else mine

    def agents_of(self, collection: str) -> list[Queue]:
        """The fleet's queues of a collection, in order."""
        entry = self._entries.get(f"collection {collection}")
        return entry.current() if entry else []

    def bounds(self, name: str) -> tuple[int, ...]:
        """All bounds that the queue has had: tasks can wait under each."""
        entry = self._by_queue.get(name)
        return entry.bounds if entry else ()

    def sources(self, queue: Queue) -> list[Declaration]:
        """All queues in which its tasks can wait: the unbounded one, then one per bound."""
        bounds = dict.fromkeys([queue.max_waiting, *self.bounds(queue.name)])
        waiting = [self._topology.admission(queue.name, bound) for bound in bounds]
        return [self._topology.back(queue.name), *waiting]

    def pauses(self, name: str) -> tuple[bool, bool]:
        """Whether the queue itself is paused, and whether its collection is."""
        entry = self._by_queue.get(name)
        return (name in entry.paused, entry.all_paused) if entry else (False, False)

    def pause_reason(self, name: str) -> str:
        """The pause reason of its collection, or else its own; empty without a reason."""
        entry = self._by_queue.get(name)
        return entry.reasons.get("") or entry.reasons.get(name, "") if entry else ""

    def explained(self) -> set[str]:
        """The collections that are paused with a reason."""
        every = self._entries.values()
        return {it.collection for it in every if it.collection and "" in it.reasons}

    def current(self) -> list[Queue]:
        """All queues that belong to a collection now, or to none."""
        return [queue for entry in self._entries.values() for queue in entry.current()]

    def former(self) -> list[Queue]:
        """All queues that have left their collection and are in no other."""
        left = [queue for entry in self._entries.values() for queue in entry.left()]
        return [queue for queue in left if self._queues[queue.name] == queue]

    def declared(self) -> tuple[Declared, ...]:
        """The sources that declared each collection."""
        return tuple(
            Declared(entry.collection, by, source)
            for entry in self._entries.values()
            if entry.collection
            for by in SIDES
            if (source := entry.sources.get(by))
        )

    async def read(self, max_age_s: float = 0.0) -> None:
        """Read the registry, unless it was read within ``max_age_s``."""
        if time.monotonic() - self._read_at >= max_age_s or not self._entries:
            self._keep(await self._state.read())

    async def introduce(self, names: Iterable[str]) -> bool:
        """Enter declared queues with their collections; returns whether anything changed."""
        wanted = set(names)
        groups = {self._declared[name].collection for name in wanted & self._declared.keys()}
        groups.discard(None)
        mine = [
            it for it in self._declared.values() if it.name in wanted or it.collection in groups
        ]
        entries = [it for it in RegistryEntry.of(mine) if not self._says(self._entries, it)]
        if not entries:
            return False

        def enter(known: dict[str, RegistryEntry]) -> None:
            for entry in entries:
                if not self._says(known, entry):
                    before = known.get(entry.key)
                    known[entry.key] = before.declared_by(entry) if before else entry

        known, changed = await self._state.change(enter)
        self._keep(known)
        return changed

    def _says(self, known: Mapping[str, RegistryEntry], entry: RegistryEntry) -> bool:
        return entry.key in known and entry.says(known[entry.key])

    async def pause(
        self,
        queues: Collection[str],
        collections: Collection[str],
        *,
        paused: bool,
        reason: str = "",
    ) -> bool:
        """Store what is paused or resumed; returns whether that changed anything."""

        def change(known: dict[str, RegistryEntry]) -> None:
            for key, entry in known.items():
                known[key] = entry.with_pauses(queues, collections, paused=paused, reason=reason)

        known, changed = await self._state.change(change)
        self._keep(known)
        return changed

    def _keep(self, entries: dict[str, RegistryEntry]) -> None:
        self._entries, self._read_at = entries, time.monotonic()
        every = entries.values()
        self._by_queue = {name: it for it in every for name in it.former}
        self._by_queue |= {name: it for it in every for name in it.queues}
        self._queues = {queue.name: queue for it in every for queue in it.left()}
        self._queues |= {queue.name: queue for queue in self.current()}
