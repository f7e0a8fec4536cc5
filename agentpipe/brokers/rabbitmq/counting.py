"""Counting: what the server and the workers tell, put together into one snapshot.

The server tells how many messages are ready in a queue that one can name, and no more. How many
are with the workers only they know, so they are asked. What nobody can tell is None.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.asking import ask
from agentpipe.brokers.rabbitmq.crew import Member
from agentpipe.brokers.rabbitmq.management import queue_figures
from agentpipe.brokers.rabbitmq.names import DELAY_QUEUES
from agentpipe.brokers.rabbitmq.tallies import by_queue
from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.rabbitmq.management import QueueFigures
    from agentpipe.brokers.records import Queue

# The registry changes seldom, and reading it takes its lock.
REGISTRY_S = 1.0


async def count(desk: Desk) -> Stats:
    """A snapshot. A task that moves on meanwhile may be counted twice, but is never missed."""
    queues, waiting = await _queues(desk)
    told, complete = await ask(desk, {"kind": "roll"})
    crew = [Member.decode(each) for each in told]
    delayed = await delayed_tasks(desk)
    ready = await desk.count(desk.names.outbox.name) or 0
    again, still_complete = await ask(desk, {"kind": "lent"})
    figures = await _figures(desk)
    running, prefetched, outcomes = Counter[str](), Counter[str](), Counter[str]()
    for member in crew:
        running.update(member.running)
        prefetched.update(member.prefetched)
        outcomes.update(member.outcomes)
    held, tallies = _held(crew), by_queue(member.tallies for member in crew)
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
            tallies.get(queue.name, Tally()),
        )
        for queue in queues
    )
    outbox = figures.get(desk.names.outbox.name)
    carried = ready + sum(each["lent"] for each in again)
    return Stats(
        accepted=None,
        waiting=sum(depth.waiting or 0 for depth in depths),
        delayed=delayed,
        running=running.total() if complete else None,
        outbox=carried if still_complete else getattr(outbox, "messages", None),
        outbox_bytes=getattr(outbox, "size_bytes", None),
        delivered=None,
        dead=(await desk.count(desk.names.dead.name) or 0) + desk.dead.in_hand,
        outcomes=outcomes,
        queues=depths,
        tally=replace(sum(tallies.values(), Tally()), error="", error_s=None),
        recent=sum(member.recent for member in crew) if complete else None,
        requests=sum(len(desk.sources(queue)) for queue in queues),
        workers=tuple(worker_seen(member) for member in sorted(crew, key=lambda it: it.name)),
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
    waiting = await waiting_tasks(desk, [*current, *former])
    return [*current, *(queue for queue in former if waiting[queue.name])], waiting


async def waiting_tasks(desk: Desk, queues: Iterable[Queue]) -> dict[str, int]:
    """How many lie in each one's queues."""
    sources = {queue.name: [source.name for source in desk.sources(queue)] for queue in queues}
    counts = await desk.counts([name for names in sources.values() for name in names])
    return {queue: sum(counts.get(name, 0) for name in names) for queue, names in sources.items()}


async def delayed_tasks(desk: Desk) -> int:
    """How many are, of all agents together."""
    names = [desk.names.later(level).name for level in range(DELAY_QUEUES)]
    if await desk.count(names[0]) is None:
        return 0  # They are made all at once, in this order.
    return sum((await desk.counts(names)).values())


def worker_seen(member: Member) -> WorkerSeen:
    """What it told of itself, as others see it."""
    running = sum(member.running.values())
    seen = (member.name, member.host, member.pid, member.slots, running)
    return WorkerSeen(*seen, member.heard_s, member.report.encode())
