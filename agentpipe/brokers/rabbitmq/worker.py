"""RabbitWorker: one joined worker on one connection, composed of its parts.

One worker at a time serves an agent, and holds its lock. Agents of a concurrency group have one
lock and one worker, which counts their runs. They change hands together, once none of them runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import Comparison
from agentpipe.brokers.rabbitmq.ahead import Ahead
from agentpipe.brokers.rabbitmq.answers import Answers, Respondent
from agentpipe.brokers.rabbitmq.assignment import share_of
from agentpipe.brokers.rabbitmq.awaited_runs import REUNION_S
from agentpipe.brokers.rabbitmq.consumption import Consumption
from agentpipe.brokers.rabbitmq.deliveries import Deliveries
from agentpipe.brokers.rabbitmq.introduction import introduction_of
from agentpipe.brokers.rabbitmq.locks import AT_ONCE, FIRST
from agentpipe.brokers.rabbitmq.membership import Membership
from agentpipe.brokers.rabbitmq.reception import Reception
from agentpipe.brokers.rabbitmq.rpc import Member, Request, encode
from agentpipe.brokers.rabbitmq.settlement import Settling
from agentpipe.brokers.rabbitmq.suspect_run import SuspectRun
from agentpipe.brokers.rabbitmq.tallies import TallyKeeper
from agentpipe.brokers.rabbitmq.verdicts import patience_s
from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel, closed_on_failure
from agentpipe.brokers.records import Settlement
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.core.portions import portions_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.rabbitmq.wakeup import Wakeup
    from agentpipe.brokers.records import Claim, Worker
    from agentpipe.connections.amqp.arrivals import Delivery

TICK_S = 1.0
# Another worker still holds this agent's lock.
RETRY_S = 0.1
# Interval at which workers introduce themselves again, for those that missed a message.
HELLO_EVERY_S = 10.0
# Time for pending operations of a leaving worker; otherwise their tasks count a crash.
LEAVE_S = 5.0

log = logging.getLogger(__name__)


class RabbitWorker:
    """Takes over and gives up agents, and answers requests of other processes.

    Attributes:
        draining: Whether it only finishes its runs and is to end.
        began_at: When it was made, on the monotonic clock.
    """

    def __init__(
        self, services: Services, worker: Worker, wakeup: Wakeup, notes: NotesAhead | None
    ) -> None:
        self.worker, self.wakeup = worker, wakeup
        self._services, self._topology = services, services.topology
        self._deliveries = Deliveries(worker, services.marks, wakeup.set, Ahead(notes))
        self._members: dict[str, Member] = {}
        self._steward: asyncio.Task[None] | None = None
        self._tallies, self._look = TallyKeeper(), asyncio.Event()
        self._probe_at = self._hello_at = self._reunion_ends = 0.0
        self._balanced, self.draining, self._report = False, False, b""
        self.began_at, self._said_owned = time.monotonic(), frozenset[str]()
        self.heartbeat()

    @property
    def is_alive(self) -> bool:
        """Whether its claims are still valid."""
        return self._has_lease() and self._channel.raw.is_open

    def _has_lease(self) -> bool:
        return not self._reception.is_closed and time.monotonic() < self._lapses_at

    def is_on(self, services: Services) -> bool:
        """Whether it works with these, and not with those of an earlier connection."""
        return self._services is services

    def is_cut_off(self) -> bool:
        """Whether its channel has closed, so that a successor has to resume its runs."""
        return self._has_lease() and not self.is_alive

    @property
    def is_in_doubt(self) -> bool:
        """Whether runs have to end whose tasks were not delivered again; from any thread."""
        return bool(self._deliveries.awaited.overdue)

    @property
    def awaited(self) -> list[Claim]:
        """Claims whose tasks were not delivered again yet; from any thread."""
        return [held.claim for held in self._deliveries.awaited.all]

    def heartbeat(self, report: bytes | None = None) -> None:
        """Renew the lease."""
        self._heard_at = time.monotonic()
        self._lapses_at = self._heard_at + self.worker.lease_s
        self._report = self._report if report is None else report

    async def check(self) -> None:
        """Return once the server has answered: a connection to a frozen server stays open."""
        with self._deliveries.received.answering():
            await self._channel.raw.catch_up()

    def inherit(self, earlier: RabbitWorker) -> None:
        """Resume the runs of a closed channel, once their tasks are redelivered here.

        The other workers reconnect too, so each gets its own deliveries.
        """
        earlier._services.listeners.discard(earlier._look.set)
        is_connected = earlier.is_on(self._services)  # Only its channel was closed.
        self._deliveries.inherit(earlier._deliveries, is_connected=is_connected)
        self._members = earlier._membership.members
        self._lapses_at, self._report = earlier._lapses_at, earlier._report
        self._tallies, self.draining = earlier._tallies, earlier.draining
        self._reunion_ends = time.monotonic() + REUNION_S

    def drain(self) -> None:
        """Leave all agents to other workers, each once nothing of it runs here."""
        self.draining = True
        self.worker = replace(self.worker, queues=frozenset())
        self._hello_at = 0.0
        self._look.set()

    async def open(self) -> None:
        """Join the fleet, and start to take over agents."""
        services = self._services
        raw = await services.connection.session.channel(self.wakeup.set)
        async with closed_on_failure(raw):
            known = self._deliveries.exposed, self._deliveries.received
            self._channel = WorkerChannel(raw, services, self.wakeup.set, self._look, *known)
            self._consumption = Consumption(self._channel, self._deliveries, self._receive)
            self._alone = SuspectRun(self._channel, self._deliveries)
            parts = self._channel, self._deliveries, self._consumption
            self._reception = Reception(*parts, patience_s(self.worker.lease_s))
            own = Respondent(self._me, self._drained, self.drain, self._tallies, self.wakeup)
            self._answers = Answers(*parts, own, self._reception.learn_reports)
            self.settling = Settling(*parts, self._tallies, self._has_lease)
            me, hear = self._introduction, self._answers.hear
            self._membership = Membership(self._channel, me, hear, self.worker.lease_s)
            self._membership.members = self._members
            if self.worker.queues:
                await services.queues.make_delays()
                await services.introduce(self.worker.queues)
            await self._membership.open()
            # Changes are received from here on: read the earlier ones.
            await services.registry.read()
            await services.marks.read()
            await services.verdicts.read()
            self._answers.end(services.marks.until_ms)
            await self._membership.meet()
            services.listeners.add(self._look.set)
            self._steward = self._channel.begin(self._keep_balance())

    # Which agents it serves.

    async def _keep_balance(self) -> None:
        tick_s = min(TICK_S, self.worker.lease_s / 4)
        self._look.set()
        while self.is_alive:
            try:
                await self._look_after()
            except ChannelClosed as error:
                if self._channel.raw.is_open:
                    log.warning("worker %s cannot take over agents: %s", self.worker.name, error)
            except Exception:  # Without this loop, no worker would serve its agents.
                log.exception("unexpected error while agents are taken over; continuing")
            with suppress(TimeoutError):  # ``wait_for`` can lose a cancellation.
                async with asyncio.timeout(tick_s if self._balanced else min(tick_s, RETRY_S)):
                    await self._look.wait()
        # Otherwise ``leave`` puts back its tasks, or its successor resumes its runs.
        if self._channel.raw.is_open and not self._reception.is_closed:
            await self.close()
            self._services.outbox.take_back(self.worker.name)

    async def _look_after(self) -> None:
        now = time.monotonic()
        if now >= max(self._probe_at, self._reunion_ends):
            self._probe_at = now + TICK_S
            self._deliveries.end_reunion()
            await self._membership.probe()
        withheld = any(agent.is_withheld for agent in self._deliveries.agents.values())
        if self._look.is_set() or not self._balanced or withheld:
            self._look.clear()
            await self._balance()
            if self.is_in_doubt:  # The caller compares what it holds, and ends these runs.
                self.wakeup.set()
            if self._deliveries.awaited.owned != self._said_owned:
                self._hello_at = 0.0
        if now >= self._hello_at:
            self._hello_at, self._said_owned = now + HELLO_EVERY_S, self._deliveries.awaited.owned
            await self._membership.say_hello()

    async def _balance(self) -> None:
        """Take over the agents of its share, and give up the others once nothing of them runs."""
        self._consumption.end_isolation()
        unit_of, awake = self._services.registry.unit_of, self._membership.awake
        share = share_of(self.worker.name, [*awake, self._introduction()], unit_of)
        theirs = {unit_of(name) for it in self._membership.members.values() for name in it.owned}
        ran, served = self._deliveries.awaited.queues, self._deliveries.agents
        self._deliveries.awaited.elsewhere = frozenset(it for it in ran if unit_of(it) in theirs)
        wanted = [it for it in (share | ran) - served.keys() if unit_of(it) not in theirs]
        # The first agents fill the slots: not always the same ones, if workers keep dying early.
        random.shuffle(wanted)
        wanted.sort(key=lambda it: it not in ran)
        for names in filter(None, (wanted[:FIRST], *portions_of(wanted[FIRST:], AT_ONCE))):
            if not self.is_alive:
                return
            await self._take(names, share)
        left: set[str] = set()
        for name, agent in served.items():
            agent.leaving = name not in share or agent.unit != unit_of(name)
        await self._consumption.adjust(list(served.values()))
        for agent in [agent for agent in served.values() if agent.leaving]:
            await self._consumption.withdraw(agent)
            if not agent.running:
                self._deliveries.remove(agent)
                left.add(agent.unit)
        await self._services.locks.release(self, left - {it.unit for it in served.values()})
        self._balanced = set(served) == share and not self._deliveries.awaited

    async def _take(self, names: Sequence[str], share: Collection[str]) -> None:
        registry = self._services.registry
        units = {name: registry.unit_of(name) for name in names}
        locked = await self._services.locks.take(list(dict.fromkeys(units.values())), self)
        ours = [
            self._deliveries.add(registry.limits(name), unit, registry.unit_of)
            for name, unit in units.items()
            if unit in locked
        ]
        self._reception.learn_reports(agent.queue.name for agent in ours)
        for agent in ours:
            agent.leaving = agent.queue.name not in share
        await self._consumption.adjust(ours)
        self.wakeup.set()

    # Tasks.

    def _receive(self, agent: ServedAgent, delivery: Delivery, *, returned: bool) -> None:
        self._reception.receive(agent, delivery, returned=returned)

    @property
    def has_nothing(self) -> bool:
        """Whether there is nothing to claim; from any thread."""
        return self._deliveries.has_nothing

    def claim_at_once(self, limit: int) -> list[Claim] | None:
        """Claim up to ``limit`` tasks, one per agent in turn; None if a suspect comes first."""
        if not self.is_alive or limit <= 0:
            return []
        if self._deliveries.has_suspect:
            return None
        claims = self._deliveries.claim(limit, self._consumption.is_isolated)
        if any(self._deliveries.agents[it.queue].is_withheld for it in claims):
            self._look.set()  # First offers follow the last returned task.
        return claims

    async def claim(self, limit: int) -> list[Claim]:
        """Claim up to ``limit`` tasks; a suspect only alone, once nothing else runs here."""
        claims = self.claim_at_once(limit)
        return await self._alone.claim() if claims is None else claims

    async def compare(
        self, held: Collection[tuple[str, int]], forwarding: Collection[int] | None
    ) -> Comparison:
        """Release claims that the worker does not hold; see ``ComparesClaims``."""
        self._deliveries.lose(self._deliveries.awaited.overdue)
        mine = {it.claim.key: it.claim for it in self._deliveries.held.values()}
        awaited = {it.claim.key for it in self._deliveries.awaited.all}
        strays = [Settlement(mine[key], "release") for key in mine.keys() - {*held}]
        returned = sum(await self.settling.settle(strays)) if strays else 0
        take_back = self._services.outbox.take_back
        freed = 0 if forwarding is None else take_back(self.worker.name, forwarding)
        return Comparison(frozenset(held) - mine.keys() - awaited, returned, freed)

    # Messages of the fleet.

    def _introduction(self) -> Member:
        parts = self._membership, self._deliveries, self._services
        return introduction_of(self.worker, *parts, draining=self.draining)

    def _me(self) -> Member:
        seen_s = time.monotonic() - self._heard_at
        return replace(self._introduction(), report=self._report.decode(), seen_s=seen_s)

    def _drained(self) -> frozenset[str]:
        """Queues with nothing waiting on the server; none while a message is on its way there."""
        moving = self._channel.tasks - self._answers.under_way - {self._steward}
        if moving or self._look.is_set() or not (self._balanced and self.is_alive):
            return frozenset()
        agents = self._deliveries.agents
        return frozenset(name for name, agent in agents.items() if agent.is_drained)

    # How it ends.

    async def leave(self) -> int:
        """Release all claims without counting a crash; returns how many."""
        await self.settling.finish_direct()
        await self._consumption.resumed(LEAVE_S)
        claims = len(self._deliveries.held) if self.is_alive else 0
        await self._dismiss_steward(LEAVE_S)
        with suppress(ChannelClosed):
            async with self.settling.at_rest():
                await self._give_back()
        await self.close()
        return claims

    async def _give_back(self) -> None:
        await self._consumption.give_back()
        # A task that is not acknowledged in time would be delivered twice.
        if others := self._channel.tasks - {self._steward}:
            await asyncio.wait(others, timeout=LEAVE_S)
        await self._channel.raw.catch_up()

    async def close(self) -> None:
        """End at once: the tasks it holds count a crash when they are redelivered."""
        await self._dismiss_steward()
        self._services.listeners.discard(self._look.set)
        self._channel.raw.close()
        self._deliveries.clear()
        connection, address = self._services.connection, self._membership.address
        with suppress(ChannelClosed):
            await self._services.locks.release(self)
            async with connection.admin.use() as admin:
                await admin.delete([address])
            me = Member(self.worker.name, address)
            gone = encode(Request("gone", me), exchange=self._topology.fleet)
            await connection.publisher.publish([gone])

    async def _dismiss_steward(self, patience_s: float = 0.0) -> None:
        """Stop changing the agents; waits up to ``patience_s`` for a change in progress."""
        self._reception.is_closed = True
        if self._steward is not None and self._steward is not asyncio.current_task():
            self._look.set()
            await asyncio.wait([self._steward], timeout=patience_s)
            self._steward.cancel()
            await asyncio.wait([self._steward])
