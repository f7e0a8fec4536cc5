"""Consumption: consumes the queues of the agents that a worker serves.

A worker does not consume from an agent in cooldown or paused: its tasks stay on the server. A task
in its last chance runs isolated: until it has ended, no task that has crashed before is consumed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.resumption import Resumption
from agentpipe.brokers.rabbitmq.served_agent import Prefetched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.connections.amqp.message import Declaration

# Delay of a task in its last chance that would run beside another one in its last chance.
APART_S = 2.0

log = logging.getLogger(__name__)


class Consumption:
    """One worker's consumers; passes each delivery to ``receive``, with whether it was returned."""

    def __init__(
        self,
        channel: WorkerChannel,
        deliveries: Deliveries,
        receive: Callable[..., None],
    ) -> None:
        self._channel, self._services = channel, channel.services
        self._deliveries, self._receive = deliveries, receive
        self._resumption = Resumption(channel, deliveries, receive)
        self._isolating: asyncio.Task[None] | None = None
        # A consumer of returned tasks that is being opened is not known yet.
        self._changing = asyncio.Lock()

    async def adjust(self, agents: Sequence[ServedAgent]) -> None:
        """Consume from all queues of these agents, within their limits, unless they leave.

        Also takes what of them ran on a lost connection, whether or not they are consumed.
        """
        if self._deliveries.awaited and self._deliveries.has_one_in_last_chance():
            self.is_isolated()  # It ran on the last connection, and goes on.
        again, staying = [], [agent for agent in agents if not agent.leaving]
        for agent in staying:
            agent.resting = self.is_left_alone(agent)
            limits = self._services.registry.limits(agent.queue.name)
            ahead = self._deliveries.ahead_of(agent, limits.concurrency)
            if limits.concurrency != agent.queue.concurrency:
                await self.stop(agent)
            elif ahead != agent.ahead:
                again.append(agent)
            agent.ahead = ahead
            self._deliveries.set_limits(agent, limits)
        await self._stop_first_offers(again)
        await self._consume([agent for agent in staying if not self.is_left_alone(agent)])
        await self._resumption.search(agents)
        for agent in staying:
            if self.is_left_alone(agent):  # Its state may have just changed.
                await self.withdraw(agent)

    def rest(self, queues: Iterable[str]) -> None:
        """Stop claiming from those of these queues that are in cooldown."""
        for name in queues:
            agent = self._deliveries.agents.get(name)
            if agent is not None and self.is_left_alone(agent):
                agent.resting = True

    def is_left_alone(self, agent: ServedAgent) -> bool:
        """Whether this worker must not take the agent's tasks now."""
        yields = time.monotonic() < agent.yields_until
        return yields or self._services.is_left_alone(agent.queue.name)

    async def _consume(self, agents: Sequence[ServedAgent]) -> None:
        """Consume returned tasks, and first offers of agents without waiting returned tasks.

        When a worker dies without a report, its tasks are requeued behind earlier returned ones.
        First offers consumed too early would be among them, and tasks that have run before would
        wait behind these. After a report, runs that it spares are redelivered as first offers: they
        come before returned tasks, one of which may have ended that worker.
        """
        for agent in agents:
            await self._consume_returned(agent)
        unbegun = self._deliveries.received.unbegun
        await self._consume_first_offers(it for it in agents if it.queue.name in unbegun)
        withheld = [agent for agent in agents if agent.is_withheld or agent.is_opening]
        if withheld:
            await self._channel.raw.catch_up()  # Wait until returned tasks are delivered.
        for agent in withheld:
            agent.is_opening = False
            agent.is_withheld = not self._isolating and self._deliveries.may_have_returned(agent)
        await self._consume_first_offers(it for it in agents if not it.is_withheld)
        if withheld:
            self._deliveries.give_turns(withheld)
            self._channel.wake()

    async def _consume_returned(self, agent: ServedAgent) -> None:
        """Consume returned tasks, unless one in its last chance runs isolated from them."""
        back = self._services.topology.back(agent.queue.name)
        async with self._changing:
            if self._isolating is None and back.name not in agent.consumers:
                agent.is_opening = agent.is_withheld = True
                await self._open(agent, back, returned=True)

    async def _consume_first_offers(self, agents: Iterable[ServedAgent]) -> None:
        for agent in agents:
            _, *waiting = self._services.registry.sources(agent.queue)
            for source in waiting:
                if source.name not in agent.consumers:
                    await self._open(agent, source, returned=False)
            agent.is_consumed = not self._isolating

    async def _open(self, agent: ServedAgent, source: Declaration, *, returned: bool) -> None:
        self._channel.raw.ensure(source)
        agent.consumers[source.name] = await self._channel.raw.consume(
            source.name,
            agent.queue.concurrency if returned else agent.prefetch,
            partial(self._receive, agent, returned=returned),
            partial(self._deleted, agent, source.name),
        )

    def _deleted(self, agent: ServedAgent, source: str) -> None:
        worker = self._deliveries.worker
        log.warning("queue %s was deleted under worker %s; making it again", source, worker)
        agent.consumers.pop(source, None)
        agent.is_consumed = False
        self._channel.look.set()

    async def stop(self, *agents: ServedAgent) -> None:
        """Stop all deliveries of these agents."""
        consumers = [it for agent in agents for it in agent.consumers.values()]
        for agent in agents:
            agent.consumers, agent.is_consumed, agent.is_withheld = {}, False, False
            agent.is_opening = False
        await self._channel.raw.cancel(consumers)

    async def _stop_first_offers(self, agents: Sequence[ServedAgent]) -> None:
        """Stop deliveries of first offers, to begin again with another prefetch.

        Those of returned tasks go on: beginning them again withholds first offers until then.
        """
        consumers = []
        for agent in agents:
            agent.is_consumed = False
            _, *waiting = self._services.registry.sources(agent.queue)
            tags = (agent.consumers.pop(source.name, None) for source in waiting)
            consumers += [tag for tag in tags if tag is not None]
        if consumers:
            await self._channel.raw.cancel(consumers)

    async def withdraw(self, agent: ServedAgent) -> None:
        """Stop deliveries of this agent, and put back what is not claimed.

        While a run is awaited, all stays here: the search for the run would take it again.
        """
        await self.stop(agent)
        if self._deliveries.awaited.of(agent.queue.name):
            return
        unclaimed = list(agent.ready)
        agent.ready.clear()
        await self._channel.put_back(unclaimed)
        self._deliveries.gone_back(unclaimed)

    async def resumed(self, patience_s: float) -> None:
        """Wait until what ran on a lost connection is here, for at most ``patience_s``."""
        await self._resumption.finished(patience_s)

    async def give_back(self) -> None:
        """Put back all tasks, also those that run, as if never delivered."""
        await self.stop(*self._deliveries.agents.values())
        running = self._deliveries.held.values()
        held = [Prefetched(each.message.given_back(), each.tag, returned=True) for each in running]
        unclaimed = [prefetched for _, prefetched in self._deliveries.ready()]
        await self._channel.put_back([*held, *unclaimed])

    # Last chances.

    def is_isolated(self) -> bool:
        """Start isolation; True once no other task with a prior crash can be delivered."""
        if self._isolating is None:
            self._isolating = self._channel.begin(self._isolate())
        return self._isolating.done() and not self._deliveries.exposed.is_moving

    async def _isolate(self) -> None:
        """Stop consuming returned tasks: only these may have crashed before."""
        topology, consumers = self._services.topology, []
        async with self._changing:
            for agent in self._deliveries.agents.values():
                agent.is_consumed = agent.is_withheld = False
                consumer = agent.consumers.pop(topology.back(agent.queue.name).name, None)
                consumers += [consumer] if consumer else []
        await self._channel.raw.cancel(consumers)
        self._deliveries.give_turns(self._deliveries.agents.values())
        self._channel.wake()

    def end_isolation(self) -> None:
        """Consume returned tasks again, unless a task in its last chance is here."""
        if self._isolating is not None and not self._deliveries.has_one_in_last_chance():
            self._isolating = None
            self._channel.look.set()

    async def keep_apart(self, prefetched: Prefetched) -> None:
        """Redeliver it later: two tasks in their last chance must not die together."""
        later = prefetched.message.delayed(self._services.topology, APART_S)
        await self._channel.replace([(later, prefetched.tag)])
        self._deliveries.gone_back([prefetched])
