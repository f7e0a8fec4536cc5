"""Desk: all that stands on one connection: its channels, workers, locks and queues."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.dead import DeadLetters
from agentpipe.brokers.rabbitmq.hand import Hand
from agentpipe.brokers.rabbitmq.holds import Holds
from agentpipe.brokers.rabbitmq.marks import Marks
from agentpipe.brokers.rabbitmq.names import make_delays, unit_of
from agentpipe.brokers.rabbitmq.outbox import Outbox
from agentpipe.brokers.rabbitmq.registry import Entry, Registry
from agentpipe.brokers.rabbitmq.roster import note_of_absence, note_of_change
from agentpipe.brokers.rabbitmq.serving import Serving
from agentpipe.brokers.records import Queue
from agentpipe.connections.amqp.channel import Channel, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agentpipe.brokers.rabbitmq.address import Address
    from agentpipe.brokers.rabbitmq.bell import Bell
    from agentpipe.brokers.records import Worker
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.amqp.message import Declaration


# Who looks at the very moment at which a hold ends may find it held still.
CLOCK_S = 0.001
# Of so many queues the depth is asked for at once.
AT_ONCE = 250


class Desk:
    """What a process does on one connection; when that is lost, all of this is.

    Attributes:
        publisher: The channel that offers go out on.
        holds: Which agents are left alone for a while.
        marks: Tasks that must not run any more.
        servings: The workers that have joined here, by name.
    """

    def __init__(self, session: Session, address: Address, declared: Mapping[str, Queue]) -> None:
        self.session, self.address, self._declared = session, address, declared
        self.names = names = address.names
        self.dead = DeadLetters(names, session.channel)
        self.registry = Registry(names, session.channel)
        self.holds = Holds()
        self.marks = Marks(names, session.channel)
        self.servings: dict[str, Serving] = {}
        self._locked: dict[str, Serving] = {}
        self._admin: Channel | None = None
        self._administering = asyncio.Lock()
        self._count_channel: Channel | None = None
        self._counting = asyncio.Lock()
        self._prepared: set[str] = set()
        self._delays_made = False
        self._hand: Hand | None = None

    async def open(self) -> None:
        """Make what everybody needs."""
        # Without one of these nothing works: then the connection is made anew.
        self.publisher = await self.session.channel(self.session.close)
        await self.publisher.call("exchange_declare", self.names.crew, "fanout", durable=True)
        self.outbox = Outbox(self.names, await self.session.channel(self.session.close))
        await self.outbox.open()

    async def channel(self, on_closed: Callable[[], None]) -> Channel:
        """A channel of its own for a worker."""
        return await self.session.channel(on_closed)

    async def admin(self) -> Channel:
        """A channel for calls that may fail and take the channel with them."""
        if self._admin is None or not self._admin.is_open:
            self._admin = await self.session.channel()
        return self._admin

    async def hand(self) -> Hand:
        """What an operator has taken from the queues to look at."""
        if self._hand is None:
            self._hand = Hand(self, await self.session.channel())
        return self._hand

    # Queues.

    def limits(self, queue: str) -> Queue:
        """What this process has declared, or else what the registry says."""
        return self._declared.get(queue) or self.registry.queue(queue) or Queue(queue)

    def unit_of(self, queue: str) -> str:
        """What one worker serves as a whole, and this queue with it."""
        return unit_of(self.limits(queue))

    def sources(self, queue: Queue) -> list[Declaration]:
        """All queues in which its tasks may wait; those under bounds of old are among them."""
        bounds = dict.fromkeys([queue.max_waiting, *self.registry.bounds(queue.name)])
        waiting = [self.names.admission(queue.name, bound) for bound in bounds]
        return [self.names.back(queue.name), *waiting]

    async def prepare(self, queues: Iterable[Queue]) -> None:
        """Make the queues of agents, known to everybody first: a crash must not hide them."""
        queues = list(queues)
        await self.introduce(queue.name for queue in queues)
        async with self._administering:
            admin = await self.admin()
            for queue in queues:
                for source in self.sources(queue):
                    admin.ensure(source)
            await admin.catch_up()
        self._prepared.update(queue.name for queue in queues)

    async def prepare_delays(self, queue: Queue) -> None:
        """Make what a delayed task needs on its way."""
        if queue.name not in self._prepared:
            await self.prepare([queue])
        await self.make_delays()

    async def make_delays(self) -> None:
        """Make the delay queues, once per connection."""
        async with self._administering:
            if not self._delays_made:
                await make_delays(await self.admin(), self.names)
            self._delays_made = True

    async def depth(self, queue: Queue) -> int:
        """How many first offers wait, those under bounds of old among them."""
        _, *waiting = self.sources(queue)
        return sum([await self.count(source.name) or 0 for source in waiting])

    def targets(self, target: str, *, round_robin: bool) -> list[Queue]:
        """The queues that an offer may go to, in order."""
        if not round_robin:
            known = self._declared.get(target) or self.registry.queue(target)
            return [known] if known else []
        mine = [queue for queue in self._declared.values() if queue.collection == target]
        return mine or self.registry.ring(target)

    async def count(self, name: str) -> int | None:
        """How many messages are ready; None where there is no queue of this name."""
        async with self._administering:
            return await (await self.admin()).depth(name)

    async def counts(self, names: Sequence[str]) -> dict[str, int]:
        """How many messages are ready in each; those that are not there are left out."""
        counts: dict[str, int] = {}
        async with self._counting:
            left = list(names)
            while left:
                asked = left[:AT_ONCE]
                found = await (await self._counter()).depths(asked)
                counts.update(zip(asked, found, strict=False))
                left = left[len(found) + (len(found) < len(asked)) :]
        return counts

    async def _counter(self) -> Channel:
        if self._count_channel is None or not self._count_channel.is_open:
            self._count_channel = await self.session.channel()
        return self._count_channel

    async def introduce(self, queues: Iterable[str]) -> None:
        """Tell everybody of these queues, where the registry does not know them as they are."""
        wanted = set(queues)
        rings = {self._declared[name].collection for name in wanted & self._declared.keys()}
        mine = [
            queue
            for queue in self._declared.values()
            if queue.name in wanted or (queue.collection and queue.collection in rings)
        ]
        if await self.registry.note(Entry.of(mine)):
            await self.publisher.publish([note_of_change(self.names.crew)])
        self.look_again()

    async def pause(
        self, queues: Sequence[str], collections: Sequence[str], *, paused: bool
    ) -> None:
        """Note it where everybody looks it up, and tell those who serve now."""
        await self.registry.pause(queues, collections, paused=paused)
        await self.publisher.publish([note_of_change(self.names.crew)])
        self.look_again()

    def is_left_alone(self, queue: str) -> bool:
        """Whether nobody may take its tasks now: it is held or paused."""
        return self.holds.left_s(queue) > 0 or self.registry.is_paused(queue)

    async def has_changed(self) -> None:
        """Somebody has told of new queues or limits."""
        await self.registry.read(0)
        self.look_again()

    def look_again(self) -> None:
        """Have each worker see what has changed."""
        for serving in self.servings.values():
            serving.look_again()

    def hear_of_hold(self, queue: str, hold_s: float) -> None:
        """A worker has told for how long nobody may claim from a queue."""
        if self.holds.hear(queue, hold_s):
            self.look_again()
            self.look_after_hold(queue)

    def look_after_hold(self, queue: str) -> None:
        """Have it claimed from again as soon as its hold is over."""
        left_s = self.holds.left_s(queue) + CLOCK_S
        asyncio.get_running_loop().call_later(left_s, self.look_again)

    # Workers.

    async def join(self, worker: Worker, bell: Bell) -> None:
        """Begin to serve; a worker of the same name is a new one from now on."""
        if worker.name in self.servings:
            await self.servings.pop(worker.name).close()
        serving = Serving(self, worker, bell)
        await serving.open()
        self.servings[worker.name] = serving

    async def take_over(self, earlier: Desk) -> None:
        """Let the workers of a connection that was lost go on here."""
        self.holds = earlier.holds
        for queue in self.holds.all():
            self.look_after_hold(queue)
        for name, old in earlier.servings.items():
            serving = Serving(self, old.worker, old.bell)
            serving.inherit(old)
            await serving.open()
            self.servings[name] = serving

    async def lapse(self, serving: Serving) -> None:
        """End a worker that was silent for too long: what it held is delivered again."""
        await serving.close()
        self.outbox.give_back(serving.worker.name)

    async def lock(self, units: Sequence[str], serving: Serving) -> list[str]:
        """Those of the units that this worker is the one to serve from now on."""
        free = [unit for unit in units if unit not in self._locked]
        if not await self._lock_all(free):
            free = [unit for unit in free if await self._lock_all([unit])]
        self._locked.update(dict.fromkeys(free, serving))
        return [unit for unit in units if self._locked.get(unit) is serving]

    async def _lock_all(self, units: Sequence[str]) -> bool:
        """All of them at the price of one, or none where another connection has any."""
        async with self._administering:
            admin = await self.admin()
            try:
                for unit in units:
                    admin.lock(self.names.lock(unit))
                await admin.catch_up()
            except Lost:
                if self.session.is_open:
                    return False
                raise
        return True

    async def unlock(self, units: Iterable[str]) -> None:
        """Let others serve them."""
        mine = [unit for unit in units if self._locked.pop(unit, None) is not None]
        async with self._administering:
            await (await self.admin()).delete(self.names.lock(unit) for unit in mine)

    async def say_goodbye(self, worker: str, address: str) -> None:
        """Tell the others that a worker is gone."""
        async with self._administering:
            await (await self.admin()).delete([address])
        await self.publisher.publish([note_of_absence(worker, address, self.names.crew)])

    async def unlock_all(self, serving: Serving) -> None:
        """Let others serve all that this worker served."""
        await self.unlock([unit for unit, owner in self._locked.items() if owner is serving])

    async def close(self) -> None:
        """Give back what an operator has looked at."""
        with suppress(Lost):
            self.dead.give_back()
            await self.dead.settled()
            if self._hand is not None:
                await self._hand.give_back()
