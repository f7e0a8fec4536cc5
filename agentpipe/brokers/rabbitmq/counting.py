"""Counting: what the server and the workers tell, put together into one snapshot.

The server tells how many messages are ready in a queue that one can name, and no more. How many
are with the workers only they know, so they are asked. What nobody can tell is None.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.asking import ask
from agentpipe.brokers.rabbitmq.crew import Member
from agentpipe.brokers.rabbitmq.management import queue_figures
from agentpipe.brokers.rabbitmq.names import DELAY_QUEUES
from agentpipe.brokers.store import QueueDepth, Stats, WorkerSeen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.rabbitmq.management import QueueFigures
    from agentpipe.brokers.store import Queue

# The registry changes seldom, and reading it takes its lock.
REGISTRY_S = 1.0


async def count(desk: Desk) -> Stats:
    """A snapshot. A task that moves on meanwhile may be counted twice, but is never missed."""
    queues, waiting = await _queues(desk)
    crew, complete = await call_the_roll(desk)
    delayed = await _delayed(desk)
    ready = await desk.count(desk.names.outbox.name) or 0
    again, still_complete = await call_the_roll(desk)
    figures = await _figures(desk)
    running, prefetched = Counter[str](), Counter[str]()
    for member in crew:
        running.update(member.running)
        prefetched.update(member.prefetched)
    held = _held(crew)
    depths = tuple(
        QueueDepth(
            queue.name,
            queue.collection,
            waiting[queue.name] + prefetched[queue.name],
            None,
            running[queue.name] if complete else None,
            queue.max_waiting,
            queue.concurrency,
            held.get(queue.name, 0.0 if complete else None),
            desk.registry.is_paused(queue.name),
        )
        for queue in queues
    )
    outbox = figures.get(desk.names.outbox.name)
    carried = ready + sum(member.lent for member in again)
    return Stats(
        accepted=None,
        waiting=sum(depth.waiting or 0 for depth in depths),
        delayed=delayed,
        running=running.total() if complete else None,
        outbox=carried if still_complete else getattr(outbox, "messages", None),
        outbox_bytes=getattr(outbox, "size_bytes", None),
        delivered=None,
        dead=await desk.count(desk.names.dead.name) or 0,
        queues=depths,
        workers=tuple(_seen(member) for member in sorted(crew, key=lambda it: it.name)),
    )


def _held(crew: Iterable[Member]) -> dict[str, float]:
    """Each queue that is held, with how long, as the workers know."""
    held: dict[str, float] = {}
    for member in crew:
        for queue, left_s in member.held.items():
            held[queue] = max(left_s, held.get(queue, 0.0))
    return held


async def _figures(desk: Desk) -> dict[str, QueueFigures]:
    """What the management API adds, where there is one."""
    if not desk.address.management:
        return {}
    return await asyncio.to_thread(queue_figures, desk.address)


async def _queues(desk: Desk) -> tuple[list[Queue], dict[str, int]]:
    """All queues with how much waits there; those that left their ring only while they hold any."""
    await desk.registry.read(REGISTRY_S)
    current, former = desk.registry.current(), desk.registry.former()
    waiting = {queue.name: await _waiting(desk, queue) for queue in (*current, *former)}
    return [*current, *(queue for queue in former if waiting[queue.name])], waiting


async def _waiting(desk: Desk, queue: Queue) -> int:
    counts = [await desk.count(source.name) for source in desk.sources(queue)]
    return sum(number or 0 for number in counts)


async def _delayed(desk: Desk) -> int:
    total = 0
    for level in range(DELAY_QUEUES):
        number = await desk.count(desk.names.later(level).name)
        if number is None:
            break  # They are made all at once, in this order.
        total += number
    return total


async def call_the_roll(desk: Desk) -> tuple[list[Member], bool]:
    """What each worker tells of itself, and whether all have answered."""
    told, complete = await ask(desk, {"kind": "roll"})
    return [Member.decode(each) for each in told], complete


def _seen(member: Member) -> WorkerSeen:
    running = sum(member.running.values())
    return WorkerSeen(member.name, member.host, member.pid, member.slots, running, 0.0)
