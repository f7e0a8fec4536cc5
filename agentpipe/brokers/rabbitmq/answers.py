"""Answers: handles requests of other processes to a worker, and replies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.location import ClaimSeen
from agentpipe.brokers.rabbitmq.cancel_marks import covers
from agentpipe.brokers.rabbitmq.rpc import Member, Reply, Request, TaskHeld, encode
from agentpipe.brokers.rabbitmq.verdicts import reported_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentpipe.brokers.rabbitmq.consumption import Consumption
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.tallies import TallyKeeper
    from agentpipe.brokers.rabbitmq.wakeup import Wakeup
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel

# How long a worker leaves a queue's tasks to an operator.
YIELD_S = 1.0


@dataclass(frozen=True, slots=True)
class Respondent:
    """The worker that answers.

    Attributes:
        me: Returns its current description.
        drained: Returns the queues with nothing waiting on the server.
        drain: Makes it finish its runs and end.
        tallies: Its counters.
        wakeup: Receives the runs that must end.
    """

    me: Callable[[], Member]
    drained: Callable[[], frozenset[str]]
    drain: Callable[[], None]
    tallies: TallyKeeper
    wakeup: Wakeup


class Answers:
    """The answers of one worker.

    Args:
        learn_reports: Called with the agents whose earlier worker's end was reported.

    Attributes:
        under_way: Tasks that are preparing replies.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        deliveries: Deliveries,
        consumption: Consumption,
        worker: Respondent,
        learn_reports: Callable[[Iterable[str]], None],
    ) -> None:
        self.under_way: set[asyncio.Task[None]] = set()
        self._channel, self._services = channel, channel.services
        self._deliveries, self._consumption = deliveries, consumption
        self._worker, self._learn_reports = worker, learn_reports

    def hear(self, request: Request) -> None:
        """Handle a request, and reply if it names a queue for the reply."""
        if request.kind == "change":
            self._channel.begin(self._services.reread())
        elif request.kind == "judged":
            self._services.verdicts.note(request.marks)
            self._learn_reports(reported_in(request.marks))
        elif request.kind == "runs":
            self._channel.begin(self._services.hear_runs(request))
        elif request.kind == "cooldown":
            queues = request.queues or {request.queue}  # An earlier version names only one.
            self._services.note_cooldowns(queues, request.cooldown_s)
            self._consumption.rest(queues)
        elif request.to:
            # What arrives later was perhaps sent after the request.
            here = self._here() if request.kind == "cancel" else ()
            answering = self._channel.begin(self._answer(request, here))
            self.under_way.add(answering)
            answering.add_done_callback(self.under_way.discard)

    def _here(self) -> list[Message]:
        """The tasks that this worker has."""
        awaited = (it.message for it in self._deliveries.awaited.all)
        return [*self._deliveries.received.here.values(), *awaited]

    async def _answer(self, request: Request, here: Iterable[Message]) -> None:
        reply = encode(await self._reply(request, here), key=request.to)
        await self._channel.raw.publish([reply])

    async def _reply(self, request: Request, here: Iterable[Message]) -> Reply:
        if request.kind == "tallies":
            # Wait for all tasks whose senders already have a confirmation to be delivered.
            await self._channel.raw.catch_up()
            return self._worker.tallies.reply(self._worker.me(), self._worker.drained())
        if request.kind == "cancel":
            marks = await self._services.marks.learn(request.marks, here)
            return Reply(self._worker.me(), ending=self.end(marks))
        if request.kind == "locate":
            return self._locate(request.task_id)
        if request.kind == "put_back":
            await self._yield(request.queues)
        if request.kind == "drain" and self._deliveries.worker in request.workers:
            self._worker.drain()
        return Reply(self._worker.me())

    def end(self, until_ms: Mapping[str, int]) -> tuple[str, ...]:
        """Signal the runs that these marks cover; returns their ids."""
        runs = (it.message for it in self._deliveries.runs())
        ending = tuple(message.task_id for message in runs if covers(until_ms, message))
        self._worker.wakeup.cancel(ending)
        return ending

    async def _yield(self, queues: frozenset[str]) -> None:
        """Put back the waiting tasks of these agents, to leave them to an operator for a moment."""
        for name in queues & self._deliveries.agents.keys():
            agent = self._deliveries.agents[name]
            agent.yields_until = time.monotonic() + YIELD_S
            await self._consumption.withdraw(agent)
        asyncio.get_running_loop().call_later(YIELD_S, self._channel.look.set)

    def _locate(self, task_id: str) -> Reply:
        """What this worker knows about a task, and about the agents that it serves."""
        held = self._deliveries.held.values()
        since = {it.tag: it.since for it in held}
        here = self._deliveries.received.here.items()
        found = [self._found(it, since.get(tag)) for tag, it in here if it.task_id == task_id]
        runs = tuple(
            ClaimSeen(it.claim.task_id, it.claim.queue, self._deliveries.worker, it.since)
            for it in held
        )
        agents = self._deliveries.agents.items()
        run_s = {name: agent.run_s for name, agent in agents if agent.run_s is not None}
        return Reply(self._worker.me(), found=tuple(found), runs=runs, run_s=run_s)

    def _found(self, message: Message, since: float | None) -> TaskHeld:
        return TaskHeld(
            message.queue,
            message.failures,
            message.crashes,
            message.submitted_ms / 1000,
            message.error,
            message in self._services.marks,
            since,
        )
