"""Reception: classifies a delivery: a run that continues, a crash to count, a task to claim."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.ahead import unread
from agentpipe.brokers.rabbitmq.consumption import APART_S
from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.brokers.rabbitmq.served_agent import Prefetched
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.core.backoff import delay_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.rabbitmq.consumption import Consumption
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.message import OutgoingMessage

# Longest delay of a task that has crashed again and again.
MAX_APART_S = 60.0
# Time after which a decision is carried out again that the server has refused.
AGAIN_S = 1.0


class Reception:
    """Receives one worker's deliveries.

    Args:
        patience_s: How long a task waits for a verdict on its worker's death.

    Attributes:
        is_closed: Whether all deliveries are put back instead of kept.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        deliveries: Deliveries,
        consumption: Consumption,
        patience_s: float,
    ) -> None:
        self.is_closed, self._patience_s = False, patience_s
        self._channel, self._services = channel, channel.services
        self._deliveries, self._consumption = deliveries, consumption
        # Tasks that are being replaced, and their copies that were delivered meanwhile.
        self._replacing: dict[str, list[tuple[ServedAgent, Prefetched]]] = {}
        self._copies: list[tuple[OutgoingMessage, int]] = []
        self._publishing = asyncio.Lock()
        self._next_batch: asyncio.Task[None] | None = None

    def receive(self, agent: ServedAgent, delivery: Delivery, *, returned: bool) -> None:
        """Receive a delivery; ``returned`` if the task was accepted before."""
        message = Message.read(delivery, agent.queue.name)
        if message.ticket and not delivery.redelivered:
            self._channel.begin(self._services.tickets.take([message.ticket]))
        recovers = returned and self._recovers(message)
        prefetched = Prefetched(message.with_ticket(None), delivery.tag, returned, recovers)
        past = self._deliveries.received.recall(message) if delivery.redelivered else None
        if past in ("over", "judged"):  # The server did not hear that it was acknowledged.
            self._deliveries.received.add(delivery.tag, message, is_judged=past == "judged")
            self._channel.acknowledge([delivery.tag], is_over=True)
            return
        if self._deliveries.resume(agent, prefetched):
            return
        if delivery.redelivered and past is None and self._can_have_begun(message):
            self._deliveries.begin_judging(agent, prefetched)
            self._channel.begin(self._judge(agent, prefetched))
        else:
            self._keep(agent, prefetched if past is None else self._as_spared(prefetched))

    def _can_have_begun(self, message: Message) -> bool:
        """Whether a task that comes back can have begun, or there is a verdict to carry out."""
        had_begun = message.queue not in self._deliveries.received.unbegun
        return (
            had_begun or message.suspect > 0 or self._services.verdicts.is_open(message.delivered)
        )

    def _keep(self, agent: ServedAgent, prefetched: Prefetched) -> None:
        """Receive a task that has ended no worker."""
        self._deliveries.note(prefetched)
        if prefetched.message.task_id in self._replacing:
            self._replacing[prefetched.message.task_id].append((agent, prefetched))
        else:
            self._admit(agent, prefetched)

    def learn_reports(self, queues: Iterable[str]) -> None:
        """Use the reports of the ends of these agents' earlier workers.

        They do not cover the end of this worker, so they are carried out at once.
        """
        served = filter(None, map(self._deliveries.agents.get, queues))
        reports = {unread(agent.queue.name): agent for agent in served}
        found = list(filter(self._services.verdicts.is_open, reports))
        for report in found:
            self._deliveries.received.unbegun.add(reports[report].queue.name)
        if any(reports[report].is_withheld for report in found):
            self._channel.look.set()
        if found:
            self._channel.begin(self._services.carry_out(*found))

    def _recovers(self, message: Message) -> bool:
        """Whether a returned task ran on a worker that died: most others never began."""
        has_run = message.crashes > 0 or self._services.verdicts.had_begun(message.delivered)
        return has_run and message.has_only_lost_workers

    async def _judge(self, agent: ServedAgent, lost: Prefetched) -> None:
        """Decide about a task whose worker died: it may be to blame."""
        unbegun, name = self._deliveries.received.unbegun, agent.queue.name
        verdict = self._services.verdicts.blame(
            lost.message.delivered, self._patience_s, lambda: name in unbegun
        )
        try:
            decided = self._blame if await verdict else self._spare
            while self._channel.raw.is_open:  # Otherwise it is judged where it is delivered again.
                with suppress(ChannelClosed):  # Another one, or the server refuses the copy.
                    await decided(agent, lost)
                    return
                await asyncio.sleep(AGAIN_S)
        finally:
            agent.judging -= 1
            if self._channel.raw.is_open:
                self._end_judging(agent)

    def _end_judging(self, agent: ServedAgent) -> None:
        """Have claimed what waited for these verdicts, once there are all."""
        self._deliveries.end_judging(agent)
        if not agent.judging:
            if agent.is_withheld:
                self._channel.look.set()
            self._channel.wake()

    async def _blame(self, agent: ServedAgent, lost: Prefetched) -> None:
        message = lost.message
        if not agent.suspects(message):
            judged = message.lost(agent.queue.max_crashes)
        elif await self._services.suspects.is_marked(message):
            judged = message.crashed()
        else:
            judged = message
        await self._replace(lost, judged)

    async def _spare(self, agent: ServedAgent, lost: Prefetched) -> None:
        if lost.message.suspect:  # Its mark, if any, must not apply to its next run.
            await self._replace(lost, lost.message.given_back())
            return
        self._deliveries.note(lost)  # If this worker dies too, the task had not begun.
        await self._services.carry_out(lost.message.delivered)
        self._admit(agent, self._as_spared(lost))

    def _as_spared(self, prefetched: Prefetched) -> Prefetched:
        """The task, before all others if it ran on a worker that died."""
        message = prefetched.message
        begun = self._services.verdicts.had_begun(message.delivered)
        recovers = prefetched.recovers or (begun and not message.culprit)
        return replace(prefetched, returned=prefetched.returned or begun, recovers=recovers)

    async def _replace(self, lost: Prefetched, judged: Message) -> None:
        """Replace the task by a copy that no verdict refers to yet.

        The copy can arrive before the original is acknowledged. If it ran at once and killed this
        worker too, both would exist; so it waits.
        """
        is_culprit = self._is_culprit(lost.message, judged)
        copy = self._copy(lost, judged.judged(is_culprit=is_culprit))
        arrived = self._replacing.setdefault(judged.task_id, [])
        await self._replaced(copy, lost.tag)
        self._replacing.pop(judged.task_id, None)
        for agent, prefetched in arrived:
            self._admit(agent, prefetched)

    async def _replaced(self, copy: OutgoingMessage, tag: int) -> None:
        """Replace a task together with others: a dead worker can have had a thousand."""
        self._copies.append((copy, tag))
        if self._next_batch is None:
            self._next_batch = asyncio.get_running_loop().create_task(self._replace_all())
        try:
            await self._next_batch
        except ChannelClosed:  # The server can have refused others of the batch only.
            if tag in self._deliveries.received.here:
                raise

    async def _replace_all(self) -> None:
        async with self._publishing:
            copies, self._copies, self._next_batch = self._copies, [], None
            await self._channel.replace(copies)
            await self._channel.raw.catch_up()

    def _copy(self, lost: Prefetched, judged: Message) -> OutgoingMessage:
        """The message that replaces the task: to come back at once, or after a delay."""
        topology = self._services.topology
        if apart_s := self._apart_s(lost.message, judged):
            return judged.delayed(topology, apart_s)
        return judged.to(topology.back(judged.queue))

    def _is_culprit(self, lost: Message, judged: Message) -> bool:
        """Whether the task is known to have ended its worker, or did so repeatedly while alone."""
        verdicts, delivered = self._services.verdicts, lost.delivered
        is_alone = judged.crashes > 1 and verdicts.is_only_suspect(delivered)
        return is_alone or verdicts.is_culprit(delivered)

    def _apart_s(self, lost: Message, judged: Message) -> float:
        """How long to delay a task, so that it comes back behind its neighbours.

        A known culprit is delayed, and a task that crashes again: some neighbours can be first
        offers. The delay doubles with each crash if no other task can have ended the worker: an
        agent has one worker, so a task that ends it each time holds up the whole agent. Most tasks
        that died beside others only happened to be there.
        """
        if judged.crashes <= lost.crashes:
            return 0.0
        if self._is_culprit(lost, judged):
            return delay_s(max(1, judged.crashes - 1), APART_S, MAX_APART_S)
        return APART_S if judged.crashes > 1 else 0.0

    def _admit(self, agent: ServedAgent, prefetched: Prefetched) -> None:
        if self.is_closed or self._passes_by(agent):
            self._channel.begin(self._put_back(prefetched))
        elif agent.in_last_chance(prefetched.message) and self._deliveries.has_one_in_last_chance():
            self._channel.begin(self._consumption.keep_apart(prefetched))
        else:
            self._deliveries.put(agent, prefetched)

    def _passes_by(self, agent: ServedAgent) -> bool:
        """Whether its tasks go back at once, unless a search for its runs would take them again."""
        rests = agent.leaving or self._consumption.is_left_alone(agent)
        return rests and not agent.is_searched

    async def _put_back(self, prefetched: Prefetched) -> None:
        await self._channel.put_back([prefetched])
        self._deliveries.gone_back([prefetched])
