"""Services: what all workers and operations of a process share on one connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.cancel_marks import CancelMarks
from agentpipe.brokers.rabbitmq.cooldowns import Cooldowns
from agentpipe.brokers.rabbitmq.dead_letters import DeadLetters
from agentpipe.brokers.rabbitmq.outbox import Outbox
from agentpipe.brokers.rabbitmq.queues import Queues, UnitLocks
from agentpipe.brokers.rabbitmq.registry import Registry
from agentpipe.brokers.rabbitmq.rpc import Replies, Request, ask, encode
from agentpipe.brokers.rabbitmq.shared_state import SharedState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from agentpipe.brokers.rabbitmq.connection import Connection
    from agentpipe.brokers.records import Queue

# A look at the very moment at which a cooldown ends may find it not over.
CLOCK_S = 0.001
TRIES = 3

log = logging.getLogger(__name__)


class Services:
    """Lost with the connection, except for ``cooldowns``.

    Attributes:
        listeners: Called when limits, pauses or cooldowns have changed.
    """

    def __init__(self, connection: Connection, declared: Mapping[str, Queue]) -> None:
        session, topology = connection.session, connection.topology
        self.connection, self.topology = connection, topology
        self.registry = Registry(session, topology, declared)
        self.queues = Queues(connection, self.registry)
        self.locks = UnitLocks(connection)
        self.outbox = Outbox(topology, connection.outbox)
        self.dead = DeadLetters(topology, session)
        self.marks = CancelMarks(session, topology)
        self.cooldowns = Cooldowns()
        self.listeners: set[Callable[[], None]] = set()
        self._calendar = SharedState[int](session, topology.shared("calendar"), max)

    def inherit(self, earlier: Services) -> None:
        """Go on with the cooldowns of a lost connection."""
        self.cooldowns = earlier.cooldowns
        for queue in self.cooldowns.all():
            self.watch_cooldown(queue)

    async def ask(self, request: Request) -> Replies:
        """Ask all workers."""
        return await ask(self.connection.session, self.topology.fleet, request)

    async def cancel(self, keys: Collection[str]) -> set[str]:
        """Mark all that these keys name, and signal what runs of it; returns the ids of that."""
        request = Request("cancel", marks=await self.marks.add(keys))
        ending: set[str] = set()
        for _ in range(TRIES):  # The others notice a moment later that a worker has died.
            replies = await self.ask(request)
            ending.update(task_id for reply in replies.each for task_id in reply.ending)
            if replies.complete:
                return ending
        log.warning("a worker does not answer: what it runs may go on; try again in a moment")
        return ending

    def changed(self) -> None:
        """Have each worker see what has changed."""
        for listener in list(self.listeners):
            listener()

    async def introduce(self, names: Collection[str]) -> None:
        """Enter these queues into the registry, unless it knows them as they are."""
        if await self.registry.introduce(names):
            await self._announce()
        self.changed()

    async def prepare(self, queues: Collection[Queue]) -> None:
        """Make the queues of agents; the registry knows them first, so that no crash hides them."""
        await self.introduce([queue.name for queue in queues])
        await self.queues.make(queues)

    async def pause(
        self, queues: Collection[str], collections: Collection[str], *, paused: bool
    ) -> None:
        """Enter a pause into the registry, and have the workers read it."""
        await self.registry.pause(queues, collections, paused=paused)
        await self._announce()
        self.changed()

    async def _announce(self) -> None:
        change = encode(Request("change"), exchange=self.topology.fleet)
        await self.connection.publisher.publish([change])

    async def reread(self) -> None:
        """The registry has changed elsewhere."""
        await self.registry.read()
        self.changed()

    def is_left_alone(self, queue: str) -> bool:
        """Whether no worker may take its tasks now: it is in cooldown, or paused."""
        return self.cooldowns.left_s(queue) > 0 or any(self.registry.pauses(queue))

    def note_cooldown(self, queue: str, cooldown_s: float) -> None:
        """A worker reports a cooldown."""
        if self.cooldowns.note(queue, cooldown_s):
            self.changed()
            self.watch_cooldown(queue)

    def watch_cooldown(self, queue: str) -> None:
        """Have it claimed from again as soon as its cooldown is over."""
        left_s = self.cooldowns.left_s(queue) + CLOCK_S
        asyncio.get_running_loop().call_later(left_s, self.changed)

    async def progress(self, schedule: str, mark: int) -> int | None:
        """The highest mark ever set; None while another connection owns the schedules.

        No ids are remembered: what two schedulers send would run twice.
        """

        def advance(marks: dict[str, int]) -> None:
            marks[schedule] = max(marks.get(schedule, 0), mark)

        if not await self._calendar.own():
            return None
        return (await self._calendar.change(advance))[0][schedule]
