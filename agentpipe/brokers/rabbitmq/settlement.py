"""Settling: publishes what follows from a settlement, then acknowledges the task."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.breaker import run_ended
from agentpipe.brokers.rabbitmq.message_sizes import REMEDY, SAFE_BYTES
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.errors import ResultTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from agentpipe.brokers.rabbitmq.consumption import Consumption
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries, Held
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.tallies import TallyKeeper
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.brokers.records import Settlement
    from agentpipe.connections.amqp.message import OutgoingMessage

log = logging.getLogger(__name__)


class Settling:
    """Settles one worker's claims, one batch at a time.

    Beside that, results of good runs: nothing else follows from them, so that their order is free.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        deliveries: Deliveries,
        consumption: Consumption,
        tallies: TallyKeeper,
        is_alive: Callable[[], bool],
    ) -> None:
        self._busy = asyncio.Lock()
        self._beside: set[asyncio.Task[Any]] = set()
        # By the claim's number: what goes on, or has ended, where no caller waits any more.
        self._carried: dict[int, asyncio.Task[None]] = {}
        self._channel, self._services, self._deliveries = channel, channel.services, deliveries
        self._consumption, self._tallies, self._is_alive = consumption, tallies, is_alive

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Publish what follows from each, have it confirmed, and only then acknowledge.

        One that is being settled beside this is as one whose claim was lost.
        """
        async with self._busy:
            mine = [each.claim.number not in self._deliveries.settling for each in settlements]
            left = [each for each, is_mine in zip(settlements, mine, strict=True) if is_mine]
            done = iter(await self._settle(left))
            return [is_mine and next(done) for is_mine in mine]

    def begin_beside(self, settlements: Sequence[Settlement]) -> None:
        """From now on what runs next may be claimed; ``settle_beside`` has to follow."""
        self._deliveries.begin_settling(each.claim for each in settlements)

    async def settle_beside(self, settlements: Sequence[Settlement]) -> list[bool]:
        """The same of results of good runs, while others are being settled."""
        task = asyncio.current_task()
        assert task is not None
        self._beside.add(task)
        try:
            return await self._settle(settlements)
        finally:
            self._beside.discard(task)
            self._deliveries.stop_settling(each.claim for each in settlements)

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """When nothing is being settled; a task that is must not be given back as well."""
        async with self._busy:
            if under_way := self._beside.union(self._carried.values()):
                await asyncio.wait(under_way)
            yield

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        if not self._services.connection.session.is_open:  # The next connection settles it.
            raise ChannelClosed("it ended before that was settled")
        found = self._find(settlements)
        pairs = [(it, held) for it, held in zip(settlements, found, strict=True) if held]
        under_way = self._under_way(settlements)
        done = [
            held is not None or each.claim.number in under_way
            for each, held in zip(settlements, found, strict=True)
        ]
        new = await self._fitting([it for it in pairs if it[0].claim.number not in under_way])
        for carrying in {*under_way.values(), *self._begun(new)}:
            await asyncio.shield(carrying)
        for each in settlements:
            self._carried.pop(each.claim.number, None)
        return done

    def _under_way(self, settlements: Sequence[Settlement]) -> dict[int, asyncio.Task[None]]:
        numbers = self._carried.keys() & {each.claim.number for each in settlements}
        return {number: self._carried[number] for number in numbers}

    def _begun(self, pairs: Sequence[tuple[Settlement, Held]]) -> list[asyncio.Task[None]]:
        """Settle these once: a server that blocks us may take them when nobody waits any more.

        Who settles them again then waits for the same.
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
        with suppress(ChannelClosed):  # They are settled, whatever becomes of the count.
            await self._count(pairs)
        self._tallies.add(pairs)

    async def _count(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        """Count runs for the breaker, and claim nothing more of what it pauses."""
        runs = [run_ended(it, held.agent.queue.collection) for it, held in pairs]
        tripped = await self._services.count_runs([run for run in runs if run])
        for agent in list(self._deliveries.agents.values()) if tripped else ():
            if agent.queue.collection in tripped:
                await self._consumption.withdraw(agent)

    def _find(self, settlements: Sequence[Settlement]) -> list[Held | None]:
        """The claim of each; None where it was lost, or is settled twice."""
        if not self._is_alive():
            return [None] * len(settlements)
        if any(each.claim.task_id in self._deliveries.awaited for each in settlements):
            raise ChannelClosed("what was running has not been delivered again yet")
        seen: set[int] = set()
        found: list[Held | None] = []
        for claim in (each.claim for each in settlements):
            held = self._deliveries.find(claim)
            found.append(None if claim.number in seen else held)
            seen.add(claim.number)
        return found

    async def _fitting(
        self, pairs: Sequence[tuple[Settlement, Held]]
    ) -> list[tuple[Settlement, Held]]:
        """The same without new payloads that are too large for the server.

        Raises:
            ResultTooLarge: A result is; it ends this channel, and all that runs here runs twice.
        """
        sizes = self._services.sizes
        largest = max((len(it.payload) + len(it.result) for it, _ in pairs), default=0)
        largest = max([largest, *(_dead_bytes(it) for it, _ in pairs if it.action == "bury")])
        limit = await sizes.limit_below(largest)
        if limit is None:
            return list(pairs)
        rooms = {it.claim.key: _room(it, limit) for it, _ in pairs}
        too_large = {it.claim.key for it, _ in pairs if len(it.result) > rooms[it.claim.key]}
        if too_large:
            raise ResultTooLarge({key: rooms[key] for key in too_large}, REMEDY)
        return [(_without_large_payload(it, limit), held) for it, held in pairs]

    async def _carry_out(self, pairs: Sequence[tuple[Settlement, Held]]) -> None:
        messages = [message for pair in pairs for message in self._consequences(*pair)]
        cooling = self._cooling(pairs)
        self._consumption.rest([agent.queue.name for agent in cooling])
        if cooling:  # First, so that what is put back is not delivered at once again.
            await self._consumption.stop(*cooling)
        await self._channel.publish(messages)
        self._services.outbox.note(messages)
        self._channel.raw.ack_all([held.tag for _, held in pairs])
        if any(held.agent.suspects(held.message) for _, held in pairs):
            # What runs next may end this process, and with it what the server has not read.
            await self._channel.raw.catch_up()
        for _, held in pairs:
            self._deliveries.let_go(held)
            if held.agent.leaving or held.agent.is_withheld:
                self._channel.look.set()
        self._consumption.end_isolation()
        for agent in cooling:
            await self._consumption.withdraw(agent)
        if cooling:  # It may cover agents of another worker of this process.
            self._services.changed()

    def _cooling(self, pairs: Sequence[tuple[Settlement, Held]]) -> list[ServedAgent]:
        """The agents of this worker from which nothing may be claimed now."""
        found = {name for each, held in pairs for name in _covered(each, held)}
        return [agent for name, agent in self._deliveries.agents.items() if name in found]

    def _consequences(self, settlement: Settlement, held: Held) -> list[OutgoingMessage]:
        """What has to be published before the task is acknowledged."""
        topology = self._services.topology
        back = topology.back(held.agent.queue.name)
        if settlement.action in ("release", "cooldown"):
            return self._returning(settlement, held)
        if settlement.action == "crash":
            noted = held.message.noting(settlement.reason).carrying(settlement.payload)
            return [noted.crashed().to(back)]
        if settlement.action == "retry":
            failed = held.message.failed(settlement.reason).carrying(settlement.payload)
            if settlement.delay_s <= 0 or held.message in self._services.marks:
                return [failed.to(back)]
            return [failed.delayed(topology, settlement.delay_s)]
        if held.agent.note_run_s(time.time() - held.since):
            self._channel.look.set()
        messages = [self._services.outbox.message(held.claim.task_id, settlement.result)]
        if settlement.action == "bury":
            collection = held.agent.queue.collection
            fits = self._services.sizes.fits
            messages.append(self._services.dead.message(settlement, collection, fits))
        return messages

    def _returning(self, settlement: Settlement, held: Held) -> list[OutgoingMessage]:
        """As if it had never been claimed, now or later."""
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


def _covered(settlement: Settlement, held: Held) -> frozenset[str]:
    """The queues from which nothing may be claimed now."""
    if settlement.action != "cooldown" or settlement.delay_s <= 0:
        return frozenset()
    return frozenset((held.agent.queue.name, *settlement.cooldown_queues))


def _dead_bytes(settlement: Settlement) -> int:
    """The size of the dead letter, which holds task and Result."""
    return len(settlement.payload or settlement.claim.payload) + len(settlement.result)


def _room(settlement: Settlement, limit: int) -> int:
    """The size that the result may have, so that it fits beside the task in a dead letter.

    Where the task leaves it too little, the dead letter goes without.
    """
    if settlement.action != "bury":
        return limit
    beside = limit - _dead_bytes(replace(settlement, result=b""))
    return beside if beside >= SAFE_BYTES else limit


def _without_large_payload(settlement: Settlement, limit: int) -> Settlement:
    """Where the task with what it carries is too large, it goes on as it was sent."""
    if len(settlement.payload) <= limit:
        return settlement
    log.warning(
        "task %s: its answer, or what it cost, is too large to be kept for a later run; %s",
        settlement.claim.task_id,
        REMEDY,
    )
    return replace(settlement, payload=b"")
