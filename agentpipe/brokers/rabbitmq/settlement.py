"""Settling: publishes what follows from a settlement, then acknowledges the task."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.breaker import run_ended
from agentpipe.brokers.rabbitmq.direct_results import MAX_BYTES, Batch, DirectResults
from agentpipe.brokers.rabbitmq.settlement_sizes import fitting
from agentpipe.connections.amqp.channel import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.rabbitmq.consumption import Consumption
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.rpc import RunEnded
    from agentpipe.brokers.rabbitmq.served_agent import Held, ServedAgent
    from agentpipe.brokers.rabbitmq.tallies import TallyKeeper
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.brokers.records import Settlement
    from agentpipe.connections.amqp.message import OutgoingMessage

# Settlements after which the task's next copy is equal to the last.
GOES_ON = ("release", "cooldown")


class Settling:
    """Settles one worker's claims, one batch at a time.

    Results of good runs are settled concurrently: they have no other consequences, so their order
    does not matter.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        deliveries: Deliveries,
        consumption: Consumption,
        tallies: TallyKeeper,
        has_lease: Callable[[], bool],
    ) -> None:
        self._busy = asyncio.Lock()
        self._beside: set[asyncio.Future[None]] = set()
        # By claim number: settlements that are running, or ended after their caller stopped
        # waiting.
        self._carried: dict[int, asyncio.Task[None]] = {}
        # Claims whose runs are measured: a settlement can fail, and is repeated.
        self._measured: set[int] = set()
        self._channel, self._services, self._deliveries = channel, channel.services, deliveries
        self._consumption, self._tallies, self._has_lease = consumption, tallies, has_lease
        self.direct = DirectResults(self._services.outbox, self._finish)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Publish what follows from each settlement, wait for confirms, then acknowledge.

        A claim that ``settle_beside`` is settling counts as lost.
        """
        async with self._busy:
            mine = [each.claim.number not in self._deliveries.settling for each in settlements]
            left = [each for each, is_mine in zip(settlements, mine, strict=True) if is_mine]
            with self._channel.moving():
                done = iter(await self.settle_beside(left))
            return [is_mine and next(done) for is_mine in mine]

    def begin_beside(self, settlements: Sequence[Settlement], settled: Future[list[bool]]) -> None:
        """Free the slots of these claims for the next runs; ``settled`` ends it."""
        self._services.outbox.expect(len(settlements))
        for held in self._deliveries.begin_settling(each.claim for each in settlements):
            self._note_run(held)
        ended = asyncio.get_running_loop().create_future()
        self._beside.add(ended)
        settled.add_done_callback(lambda _: self._end_beside(settlements, ended))

    def _end_beside(self, settlements: Sequence[Settlement], ended: asyncio.Future[None]) -> None:
        self._beside.discard(ended)
        self._services.outbox.expect(-len(settlements))
        self._deliveries.stop_settling(each.claim for each in settlements)
        if not ended.done():
            ended.set_result(None)

    def settle_directly(
        self,
        settlements: Sequence[Settlement],
        settled: Future[list[bool]],
        otherwise: Callable[[], None],
    ) -> bool:
        """Settle results of good runs once the sink has them; False if that is impossible.

        ``otherwise`` settles them with the outbox.
        """
        if not (self.direct.is_quick and self._channel.raw.is_open and self._has_lease()):
            return False
        held = [self._deliveries.find(each.claim) for each in settlements]
        pairs = [(each, it) for each, it in zip(settlements, held, strict=True) if it]
        if len(pairs) < len(settlements) or not all(self._can_go_directly(*pair) for pair in pairs):
            return False
        self.direct.add(Batch(pairs, settled, otherwise, len(pairs), time.monotonic()))
        return True

    async def finish_direct(self) -> None:
        """Settle what still waits for the sink with the outbox."""
        self.direct.give_up()
        if self._beside:
            await asyncio.wait(self._beside)

    def _can_go_directly(self, settlement: Settlement, held: Held) -> bool:
        fits = len(settlement.result) <= MAX_BYTES
        new = settlement.claim.number not in self._carried
        return fits and new and not held.agent.suspects(held.message)

    def _finish(self, batches: Sequence[Batch]) -> None:
        """Acknowledge the tasks of Results that the sink has confirmed."""
        if not self._channel.raw.is_open:
            for batch in batches:
                batch.settled.set_exception(ChannelClosed("it ended before that was settled"))
            return
        pairs = [pair for batch in batches for pair in batch.pairs]
        self._acknowledge(pairs)
        self._let_go(pairs)
        if self._services.breaker.news(_runs_ended(pairs)):
            self._channel.begin(self._count(pairs))
        self._tallies.add(pairs)
        for batch in batches:
            batch.settled.set_result([True] * len(batch.pairs))

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Wait for running settlements and block new batches; no task is put back as well."""
        async with self._busy:
            if under_way := self._beside.union(self._carried.values()):
                await asyncio.wait(under_way)
            yield

    async def settle_beside(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Settle results of good runs, concurrently with other settlements."""
        if self._has_lease() and not self._channel.raw.is_open:  # The next channel settles it.
            raise ChannelClosed("it ended before that was settled")
        is_whole = not self._awaits(settlements)
        found = self._find(settlements)
        pairs = [(it, held) for it, held in zip(settlements, found, strict=True) if held]
        under_way = self._under_way(settlements)
        done = [
            held is not None or each.claim.number in under_way
            for each, held in zip(settlements, found, strict=True)
        ]
        left = [it for it in pairs if it[0].claim.number not in under_way]
        new = await fitting(self._services.sizes, left)
        for carrying in {*under_way.values(), *self._begun(new)}:
            await asyncio.shield(carrying)
        if not is_whole:  # Called again, what is settled now counts as done.
            raise ChannelClosed("what was running has not been delivered again yet")
        for each in settlements:
            self._carried.pop(each.claim.number, None)
        return done

    def _under_way(self, settlements: Sequence[Settlement]) -> dict[int, asyncio.Task[None]]:
        numbers = self._carried.keys() & {each.claim.number for each in settlements}
        return {number: self._carried[number] for number in numbers}

    def _begun(self, pairs: Sequence[tuple[Settlement, Held]]) -> list[asyncio.Task[None]]:
        """Start to settle these once: a blocked server can accept them after callers have left.

        A repeated call for the same claims waits for the same task.
        """
        if not pairs:
            return []
        carrying = asyncio.get_running_loop().create_task(self._carry_out_and_count(pairs))
        numbers = [each.claim.number for each, _ in pairs]
        self._carried.update(dict.fromkeys(numbers, carrying))
        carrying.add_done_callback(partial(self._forget_failed, numbers))
        return [carrying]

    def _forget_failed(self, numbers: Iterable[int], carrying: asyncio.Task[None]) -> None:
        if carrying.cancelled() or carrying.exception():
            for number in numbers:
                self._carried.pop(number, None)

    async def _carry_out_and_count(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        await self._carry_out(pairs)
        with suppress(ChannelClosed):  # They are settled, even if the count fails.
            await self._count(pairs)
        self._tallies.add(pairs)

    async def _count(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        """Count runs for the breaker, and stop claiming from collections that it pauses."""
        tripped = await self._services.count_runs(_runs_ended(pairs))
        for agent in list(self._deliveries.agents.values()) if tripped else ():
            if agent.queue.collection in tripped:
                await self._consumption.withdraw(agent)

    def _find(self, settlements: Sequence[Settlement]) -> list[Held | None]:
        """Each settlement's claim; None if it was lost, or is settled twice."""
        if not self._has_lease():
            return [None] * len(settlements)
        seen: set[int] = set()
        found: list[Held | None] = []
        for claim in (each.claim for each in settlements):
            held = self._deliveries.find(claim)
            found.append(None if claim.number in seen else held)
            seen.add(claim.number)
        return found

    def _awaits(self, settlements: Sequence[Settlement]) -> bool:
        """Whether the task of any of these runs can still be delivered again."""
        awaited = self._deliveries.awaited
        if not (awaited and self._has_lease()):  # Seldom, and every settlement comes by here.
            return False
        claims = {each.claim.key for each in settlements}
        self._deliveries.lose(it for it in awaited.overdue if it.claim.key in claims)
        return any(it.claim.key in claims for it in awaited.all)

    async def _carry_out(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        messages = [message for pair in pairs for message in self._consequences(*pair)]
        cooling = self._cooling(pairs)
        self._consumption.rest([agent.queue.name for agent in cooling])
        if cooling:  # Before the publish, so that returned tasks are not redelivered at once.
            await self._consumption.stop(*cooling)
        await self._channel.publish(messages)
        self._services.outbox.note(messages)
        self._acknowledge(pairs)
        if any(held.agent.suspects(held.message) for _, held in pairs):
            # The next run can kill this process, and unsent acknowledgements with it.
            await self._channel.raw.catch_up()
        self._let_go(pairs)
        for agent in cooling:
            await self._consumption.withdraw(agent)
        if cooling:  # It can cover agents of other workers of this process.
            self._services.changed()

    def _acknowledge(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        for goes_on in (False, True):
            tags = [held.tag for it, held in pairs if (it.action in GOES_ON) is goes_on]
            if tags:
                self._channel.acknowledge(tags, is_over=not goes_on)

    def _let_go(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        for _, held in pairs:
            self._deliveries.let_go(held)
            self._measured.discard(held.claim.number)
            if held.agent.leaving or held.agent.is_withheld:
                self._channel.look.set()
        self._consumption.end_isolation()

    def _note_run(self, held: Held) -> None:
        if held.claim.number in self._measured:
            return
        self._measured.add(held.claim.number)
        run_s = time.monotonic() - held.begun
        if held.agent.note_run(run_s, len(held.message.payload)):
            self._channel.look.set()

    def _cooling(self, pairs: Sequence[tuple[Settlement, Held]]) -> list[ServedAgent]:
        """The agents of this worker that a cooldown covers."""
        found = {name for each, held in pairs for name in _covered(each, held)}
        return [agent for name, agent in self._deliveries.agents.items() if name in found]

    def _consequences(self, settlement: Settlement, held: Held) -> list[OutgoingMessage]:
        """The messages to publish before the task is acknowledged."""
        topology = self._services.topology
        back = topology.back(held.agent.queue.name)
        if settlement.action in GOES_ON:
            return self._returning(settlement, held)
        if settlement.action == "crash":
            noted = held.message.noting(settlement.reason).carrying(settlement.payload)
            return [noted.crashed().to(back)]
        if settlement.action == "retry":
            failed = held.message.failed(settlement.reason).carrying(settlement.payload)
            if settlement.delay_s <= 0 or held.message in self._services.marks:
                return [failed.to(back)]
            return [failed.delayed(topology, settlement.delay_s)]
        self._note_run(held)
        messages = [self._services.outbox.message(held.claim.task_id, settlement.result)]
        if settlement.action == "bury":
            collection = held.agent.queue.collection
            fits = self._services.sizes.fits
            messages.append(self._services.dead.message(settlement, collection, fits))
        return messages

    def _returning(self, settlement: Settlement, held: Held) -> list[OutgoingMessage]:
        """Return the task as if it had not been claimed, now or after a delay."""
        topology, delay_s = self._services.topology, settlement.delay_s
        returned = held.message.noting(settlement.reason).given_back().carrying(settlement.payload)
        covered = _covered(settlement, held)
        if settlement.action == "release" and delay_s > 0:
            return [returned.delayed(topology, delay_s)]
        back = topology.back(held.agent.queue.name)
        if not covered:
            return [returned.to(back)]
        announced = self._services.begin_cooldown(covered, delay_s)
        return [returned.cooled(delay_s).to(back), announced]


def _runs_ended(pairs: Iterable[tuple[Settlement, Held]]) -> list[RunEnded]:
    runs = (run_ended(each, held.agent.queue.collection) for each, held in pairs)
    return [run for run in runs if run]


def _covered(settlement: Settlement, held: Held) -> frozenset[str]:
    """The queues that the settlement's cooldown covers."""
    if settlement.action != "cooldown" or settlement.delay_s <= 0:
        return frozenset()
    return frozenset((held.agent.queue.name, *settlement.cooldown_queues))
