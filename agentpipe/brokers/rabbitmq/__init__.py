"""RabbitStore: tasks in RabbitMQ, for those who have one already.

AMQP has no transaction over a publish and an acknowledgement: whatever has to move from one queue
into another is published, confirmed, and only then acknowledged. A crash in between repeats it
and loses nothing. So a task is run at least once, and answered exactly once behind the stream.

Each agent has a queue for first offers, bounded by the server, and one for what comes back, which
nothing bounds. One worker at a time serves an agent: it holds an exclusive queue as its lock, and
so no agent runs more than its concurrency over the whole fleet. Agents that share a gate are
served by one worker, under one lock. An agent that is held is left alone by whoever serves it, as
all workers tell each other; nothing but they remember it. A lease is the connection's: when
it ends, the server delivers again what was not acknowledged.

What this broker does not do: it remembers no ids, so that a task sent twice is run twice; it knows
three priorities, below, at and above 0.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agentpipe.brokers.base import Store
from agentpipe.brokers.capabilities import Answer, Fate, TaskQuery, TaskSeen
from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage
from agentpipe.brokers.rabbitmq import calendar
from agentpipe.brokers.rabbitmq.address import Address
from agentpipe.brokers.rabbitmq.asking import ask_all
from agentpipe.brokers.rabbitmq.bell import Bell
from agentpipe.brokers.rabbitmq.counting import count
from agentpipe.brokers.rabbitmq.dead import PORTION
from agentpipe.brokers.rabbitmq.desk import Desk
from agentpipe.brokers.rabbitmq.marks import cancel
from agentpipe.brokers.rabbitmq.nodes import NOT_ASKED, examine_nodes
from agentpipe.brokers.rabbitmq.offering import Offering
from agentpipe.brokers.rabbitmq.whereabouts import of_dead, where_is
from agentpipe.brokers.records import (
    Admission,
    Claim,
    ClaimRequest,
    Offer,
    OutboxRecord,
    Queue,
    Settlement,
    Verdict,
    Worker,
)
from agentpipe.connections.amqp import health
from agentpipe.connections.amqp.channel import Lost
from agentpipe.connections.amqp.connection import ANSWER_S, Link, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence

    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.statistics import Stats
    from agentpipe.connections.health import Finding
    from agentpipe.settings import Settings

T = TypeVar("T")
OFFER_S = 60.0
# To find a task, others have to be taken out of its way.
FIND_S = 60.0
# Nobody who asks for one task waits longer for all dead letters to be read.
SEEK_S = 1.0


class RabbitStore(Store):
    """The ``Store`` over ``amqp://`` and ``amqps://``; the seam says what each operation promises.

    Raises:
        ConfigError: The URL is wrong.
        Unreachable: The server does not answer, or refuses the user or the vhost.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = Address.parse(url)
        # The server notices a silent connection after one to two of these.
        heartbeat_s = max(1, int(settings.lease_s / 2))
        self._link = Link(
            self._address.parameters(heartbeat_s), self._address.shown, own="?prefix="
        )
        self._declared: dict[str, Queue] = {}
        self._cursors: dict[str, int] = {}
        self._desk: Desk | None = None
        self._opening = asyncio.Lock()
        self._joined: set[str] = set()
        self._bell = Bell()
        self._on_desk(_nothing)

    def declare(self, queues: Sequence[Queue]) -> None:
        rings = {queue.collection for queue in queues if queue.collection}
        for queue in list(self._declared.values()):
            if queue.collection in rings:
                del self._declared[queue.name]
        self._declared.update({queue.name: queue for queue in queues})
        names = [queue.name for queue in queues]
        self._on_desk(lambda desk: desk.introduce(names))

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        async def offer(desk: Desk) -> Admission:
            queues = desk.targets(target, round_robin=round_robin)
            if not queues:
                await desk.registry.read(0)
                queues = desk.targets(target, round_robin=round_robin)
            if not queues:
                nowhere: Verdict = "refused"
                return Admission((nowhere,) * len(offers), 0, 0)
            cursor = self._cursors.get(target, 0)
            offering = Offering(desk, desk.publisher, queues, cursor)
            admission = await offering.make(offers)
            self._cursors[target] = offering.cursor
            return admission

        # Its queues may have to be made first.
        return self._on_desk(offer, OFFER_S)

    def join(self, worker: Worker) -> None:
        self._on_desk(lambda desk: desk.join(worker, self._bell))
        self._joined.add(worker.name)

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        async def renew(desk: Desk) -> bool:
            serving = desk.servings.get(worker.name)
            if serving is None or not serving.is_alive:
                return False
            serving.extend(report)
            return True

        return self._on_desk(renew)

    def leave(self, worker: Worker) -> int:
        self._joined.discard(worker.name)

        async def leave(desk: Desk) -> int:
            serving = desk.servings.pop(worker.name, None)
            desk.outbox.give_back(worker.name)
            return 0 if serving is None else await serving.leave()

        return self._on_desk(leave)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        name = request.worker.name

        async def claim(desk: Desk) -> list[Claim]:
            serving = desk.servings.get(name)
            if serving is None and name in self._joined:
                raise Lost("its tasks are delivered again")  # It shall look whether it has a lease.
            if serving is None or not serving.is_alive:
                return []
            if await desk.outbox.is_above(request.outbox):
                return []
            return serving.claim(request.limit)  # Agents are shared out, not their tasks.

        return self._on_desk(claim)

    def wait(self, timeout_s: float) -> None:
        self._bell.wait(timeout_s)

    def take_cancelled(self) -> list[str]:
        return self._bell.take_cancelled()

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        async def settle(desk: Desk) -> list[bool]:
            done = {}
            for name in {settlement.claim.worker for settlement in settlements}:
                mine = [each for each in settlements if each.claim.worker == name]
                serving = desk.servings.get(name)
                lost = [False] * len(mine)
                done[name] = iter(lost if serving is None else await serving.settle(mine))
            return [next(done[settlement.claim.worker]) for settlement in settlements]

        return self._on_desk(settle)

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        async def take(desk: Desk) -> list[OutboxRecord]:
            serving = desk.servings.get(worker.name)
            if serving is None or not serving.is_alive:
                return []
            return await desk.outbox.take(worker.name, limit, max_bytes)

        return self._on_desk(take)

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        async def drop(desk: Desk) -> None:
            desk.outbox.drop(worker.name, numbers)

        self._on_desk(drop)

    def tasks(self, query: TaskQuery) -> list[TaskSeen]:
        if query.state == "running":
            found = self._running()
        elif query.task_ids is not None:
            wanted = query.task_ids
            found = self._on_desk(lambda desk: _find(desk, wanted), FIND_S)
        else:
            found = self._on_desk(lambda desk: _peek(desk, query))
        return [task for task in found if query.selects(task)][: query.limit]

    def _running(self) -> list[TaskSeen]:
        told = self._on_desk(lambda desk: ask_all(desk, {"kind": "claims"}))
        entries = {
            task_id: TaskSeen(0, task_id, queue, base64.b64decode(payload), float(submitted_at))
            for each in told
            for task_id, queue, payload, submitted_at in each["claims"]
        }
        return list(entries.values())

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        async def answer(desk: Desk) -> list[bool]:
            return await (await desk.hand()).answer(answers)

        return self._on_desk(answer)

    def pause(
        self, *, queues: Sequence[str] = (), collections: Sequence[str] = (), paused: bool
    ) -> None:
        self._on_desk(lambda desk: desk.pause(queues, collections, paused=paused))

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        return self._on_desk(lambda desk: cancel(desk, task_ids))

    def locate(self, task_id: str) -> TaskLocation:
        facts = self._on_desk(lambda desk: where_is(desk, task_id))
        if facts.place != "unknown":
            return facts
        letter, unread = self._seek_letter(task_id)
        if letter is None:
            return replace(facts, dead_unread=unread)
        return self._on_desk(lambda desk: of_dead(desk, facts, letter))

    def _seek_letter(self, task_id: str) -> tuple[DeadLetter | None, int]:
        """A task's dead letter; else how many there was no time to read."""
        unread = self.count_dead(DeadFilter()) or 0
        after: str | None = "" if unread else None
        ends = time.monotonic() + SEEK_S
        while after is not None and time.monotonic() < ends:
            page = self.dead_letters(DeadFilter(), after, PORTION)
            if letters := self._on_desk(partial(_read_letters, [task_id])):
                return letters[-1], 0
            unread, after = max(0, unread - len(page.letters)), page.after
        return None, unread if after is not None else 0

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        return self._on_desk(lambda desk: desk.dead.page(wanted, after, limit))

    def count_dead(self, wanted: DeadFilter) -> int | None:
        if wanted != DeadFilter():
            return None

        async def count(desk: Desk) -> int:
            return (await desk.count(desk.names.dead.name) or 0) + desk.dead.in_hand

        return self._on_desk(count)

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        missing = set(task_ids)
        found: list[DeadLetter] = []
        for _ in self._looks(missing):
            letters = self._on_desk(partial(_read_letters, missing))
            found += letters
            missing.difference_update(letter.task_id for letter in letters)
        return sorted(found, key=lambda letter: letter.died_at)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        async def drop(desk: Desk) -> set[str]:
            dropped = desk.dead.drop(missing)
            await desk.dead.settled()
            return dropped

        missing = set(task_ids)
        for _ in self._looks(missing):
            missing -= self._on_desk(drop)
        return len(set(task_ids)) - len(missing)

    def _looks(self, missing: Collection[str]) -> Iterator[None]:
        """What the hand holds, then each page of the queue, until nothing is missing."""
        after: str | None = ""
        yield
        while missing and after is not None:
            after = self.dead_letters(DeadFilter(), after, PORTION).after
            yield

    def examine(self) -> list[Finding]:
        """What the server tells of itself, over AMQP and by its management API."""
        found = self._link.run(health.examine_broker)
        return found + (examine_nodes(self._address) if self._address.management else NOT_ASKED)

    def progress(self, name: str, mark: int) -> int | None:
        async def progress(desk: Desk) -> int | None:
            return await calendar.progress(desk.names, desk.session.channel, name, mark)

        return self._on_desk(progress)

    def stats(self) -> Stats:
        return self._on_desk(count)

    def close(self) -> None:
        self._link.close(self._farewell)

    async def _farewell(self) -> None:
        if self._desk is not None:
            await self._desk.close()

    def _on_desk(
        self, operation: Callable[[Desk], Coroutine[Any, Any, T]], answer_s: float = ANSWER_S
    ) -> T:
        async def perform(session: Session) -> T:
            return await operation(await self._desk_on(session))

        return self._link.run(perform, answer_s)

    async def _desk_on(self, session: Session) -> Desk:
        async with self._opening:
            if self._desk is None or self._desk.session is not session:
                desk = Desk(session, self._address, self._declared)
                await desk.open()
                if self._desk is not None:
                    await desk.take_over(self._desk)
                self._desk = desk
            return self._desk


async def _peek(desk: Desk, query: TaskQuery) -> list[TaskSeen]:
    limit = sys.maxsize if query.limit is None else query.limit
    return await (await desk.hand()).peek(query.queues, query.after, limit)


async def _find(desk: Desk, task_ids: Sequence[str]) -> list[TaskSeen]:
    return await (await desk.hand()).find(task_ids)


async def _read_letters(task_ids: Collection[str], desk: Desk) -> list[DeadLetter]:
    return desk.dead.whole(task_ids)


async def _nothing(_desk: Desk) -> None:
    """Connecting was all."""
