"""Services: what all workers and operations of a process share on one connection."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from agentpipe.brokers.breaker import Tripped
from agentpipe.brokers.rabbitmq.breaker import FleetBreaker
from agentpipe.brokers.rabbitmq.cancel_marks import CancelMarks
from agentpipe.brokers.rabbitmq.connection import Connection
from agentpipe.brokers.rabbitmq.cooldowns import Cooldowns
from agentpipe.brokers.rabbitmq.dead_letters import DeadLetters
from agentpipe.brokers.rabbitmq.drains import Drains
from agentpipe.brokers.rabbitmq.locks import locks_of
from agentpipe.brokers.rabbitmq.message_sizes import MessageSizes
from agentpipe.brokers.rabbitmq.outbox import Outbox
from agentpipe.brokers.rabbitmq.queues import Queues
from agentpipe.brokers.rabbitmq.registry import Registry
from agentpipe.brokers.rabbitmq.rpc import Replies, Request, ask, encode
from agentpipe.brokers.rabbitmq.runs import Runs
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of
from agentpipe.brokers.rabbitmq.suspects import Suspects
from agentpipe.brokers.rabbitmq.tickets import Tickets
from agentpipe.brokers.rabbitmq.verdicts import Verdicts
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.core.delivered import Delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from agentpipe.brokers.rabbitmq.rpc import RunEnded
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.brokers.records import Queue
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.amqp.message import OutgoingMessage

# Margin after a cooldown's end: a check at that exact moment can find it unfinished.
CLOCK_S = 0.001
TRIES = 3
# The worker that settles the last failure of a streak pauses the collection; others wait for it.
HEARD_S = 0.05

log = logging.getLogger(__name__)


class Services:
    """Lost with the connection, except for ``cooldowns`` and ``breaker``.

    Attributes:
        listeners: Called when limits, pauses or cooldowns have changed.
    """

    def __init__(self, connection: Connection, declared: Mapping[str, Queue]) -> None:
        session, topology = connection.session, connection.topology
        self.connection, self.topology = connection, topology
        self.registry = Registry(session, topology, declared)
        self.tickets = Tickets(connection)
        self.queues = Queues(connection, self.registry, self.tickets)
        self.locks = locks_of(connection)
        self.outbox = Outbox(topology, connection.outbox)
        self.sizes = MessageSizes(session)
        self.suspects, self.verdicts = Suspects(session, topology), Verdicts(session, topology)
        self.dead = DeadLetters(topology, session, "dead")
        self.undeliverable = DeadLetters(topology, session, "undeliverable")
        self.marks, self.runs = CancelMarks(session, topology), Runs(session, topology)
        self.drains = Drains(session, topology)
        self.cooldowns, self.breaker = Cooldowns(), FleetBreaker()
        self.listeners: set[Callable[[], None]] = set()
        self._spared, self._sparing = list[Delivered](), asyncio.Lock()
        self._calendar = SharedState[int](session, topology.shared("calendar"), max, values_of(int))

    def inherit(self, earlier: Services) -> None:
        """Take over the cooldowns and the breaker of a lost connection."""
        self.cooldowns, self.breaker = earlier.cooldowns, earlier.breaker
        self._watch_cooldowns(self.cooldowns.all())

    async def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """Publish durable messages with confirms; creates missing queues."""
        publisher = self.connection.publisher
        fates = await publisher.publish(messages)
        lost = [it for it, fate in zip(messages, fates, strict=True) if fate != "taken"]
        for key in {message.key for message in lost}:
            await publisher.declare(self.topology.durable(key))
        if lost:
            await publisher.keep_made(self.topology.made)
        if set(await publisher.publish(lost)) - {"taken"}:
            raise ChannelClosed("the server refuses to store results")

    async def ask(self, request: Request) -> Replies:
        """Ask all workers."""
        return await ask(self.connection.session, self.topology.fleet, request)

    async def cancel(self, keys: Collection[str]) -> set[str]:
        """Mark everything that these keys cover; returns the ids of the signalled runs."""
        request = Request("cancel", marks=await self.marks.add(keys))
        ending: set[str] = set()
        for _ in range(TRIES):  # Workers notice another's death a moment later.
            replies = await self.ask(request)
            ending.update(task_id for reply in replies.each for task_id in reply.ending)
            if replies.complete:
                return ending
        log.warning("a worker does not answer: what it runs may go on; try again in a moment")
        return ending

    async def judge(self, spared: Iterable[Delivered], blamed: Iterable[Delivered]) -> None:
        """Store and announce verdicts on the tasks that a dead worker had."""
        await self._tell(Request("judged", marks=await self.verdicts.add(spared, blamed)))

    async def carry_out(self, *spared: Delivered) -> None:
        """Store and announce that these verdicts were used, so that they cover no later death."""
        self._spared.extend(spared)
        async with self._sparing:  # Tasks of the same dead worker are stored together.
            spared_now, self._spared = self._spared, []
            if spared_now:
                await self._tell(Request("judged", marks=await self.verdicts.carry_out(spared_now)))

    async def say_ended(self, workers: Iterable[str]) -> None:
        """Have the other workers check at once that these have ended."""
        await self._tell(Request("ended", workers=frozenset(workers)))

    def changed(self) -> None:
        """Notify the workers of changes."""
        for listener in list(self.listeners):
            listener()

    async def introduce(self, names: Collection[str]) -> None:
        """Enter these queues into the registry, unless it already has them unchanged."""
        if await self.registry.introduce(names):
            await self._tell(Request("change"))
        self.changed()

    async def prepare(self, queues: Collection[Queue]) -> None:
        """Register the agents' queues, then create them; a crash in between hides none."""
        await self.introduce([queue.name for queue in queues])
        await self.queues.make(queues)

    async def pause(
        self,
        queues: Collection[str],
        collections: Collection[str],
        *,
        paused: bool,
        reason: str = "",
    ) -> bool:
        """Store a pause and notify the workers; returns whether it is new."""
        new = await self.registry.pause(queues, collections, paused=paused, reason=reason)
        self.breaker.forget(collections)
        await self._tell(Request("change"))
        self.changed()
        return new

    async def _tell(self, request: Request) -> None:
        message = encode(request, exchange=self.topology.fleet)
        await self.connection.publisher.publish([message])

    async def reread(self) -> None:
        """Read the registry after another process has changed it."""
        await self.registry.read()
        self.breaker.forget(self.registry.explained())
        self.changed()

    async def count_runs(self, runs: Sequence[RunEnded]) -> set[str]:
        """Count runs that were settled here, and tell the other workers.

        Returns:
            The collections that are now paused, because their runs fail the same way.
        """
        news = self.breaker.news(self._counted(runs))
        if not news:
            return set()
        tripping = self.breaker.count(news)
        await self._tell(self.breaker.said(news))
        for collection, reason in tripping.items():
            await self._trip(collection, reason)
        return set(tripping)

    async def hear_runs(self, request: Request) -> None:
        """Count runs that another process settled; pauses collections that it perhaps missed."""
        if not self.breaker.is_new(request):
            return
        tripping = self.breaker.count(self._counted(request.runs))
        if tripping:
            await asyncio.sleep(HEARD_S * random.random())  # noqa: S311 - not a secret
        for collection in tripping.keys() - self.registry.explained():
            await self._trip(collection, tripping[collection])

    def _counted(self, runs: Iterable[RunEnded]) -> list[RunEnded]:
        paused = self.registry.explained()
        return [run for run in runs if run.collection not in paused]

    async def _trip(self, collection: str, reason: str) -> None:
        if await self.pause((), [collection], paused=True, reason=reason):
            self.breaker.tripped.append(Tripped(collection, reason))

    def is_left_alone(self, queue: str) -> bool:
        """Whether no worker may take the queue's tasks now: it is in cooldown, or paused."""
        return self.cooldowns.left_s(queue) > 0 or any(self.registry.pauses(queue))

    def begin_cooldown(self, queues: Collection[str], cooldown_s: float) -> OutgoingMessage:
        """Begin a cooldown of these queues; returns the announcement to the other workers."""
        for queue in queues:
            self.cooldowns.begin(queue, cooldown_s)
        self._watch_cooldowns(queues)
        request = Request("cooldown", queues=frozenset(queues), cooldown_s=cooldown_s)
        return encode(request, exchange=self.topology.fleet)

    def note_cooldowns(self, queues: Collection[str], cooldown_s: float) -> None:
        """Apply a cooldown that a worker reports."""
        new = [queue for queue in queues if self.cooldowns.note(queue, cooldown_s)]
        if new:
            self.changed()
            self._watch_cooldowns(new)

    def _watch_cooldowns(self, queues: Collection[str]) -> None:
        """Notify the workers when these cooldowns end."""
        loop = asyncio.get_running_loop()
        for left_s in {round(self.cooldowns.left_s(queue) + CLOCK_S, 3) for queue in queues}:
            loop.call_later(left_s + CLOCK_S, self.changed)

    async def progress(self, schedule: str, mark: int) -> int | None:
        """The highest mark ever set; None while another connection owns the schedules.

        No ids are remembered, so tasks sent by two schedulers would run twice.
        """

        def advance(marks: dict[str, int]) -> None:
            marks[schedule] = max(marks.get(schedule, 0), mark)

        if not await self._calendar.own():
            return None
        return (await self._calendar.change(advance))[0][schedule]


async def services_on(
    session: Session, topology: Topology, declared: Mapping[str, Queue], before: Services | None
) -> Services:
    """The services on this session; after a lost one, they inherit from those ``before``."""
    if before is not None and before.connection.session is session:
        return before
    services = Services(await Connection.open(session, topology), declared)
    if before is not None:
        services.inherit(before)
    return services
