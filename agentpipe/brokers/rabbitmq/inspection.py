"""Inspection: a snapshot of what the server and the workers know.

The workers are asked first, because they know what was delivered to them and from which queues
nothing more waits. The server counts the ready messages in the other queues, with one request per
queue. A number that neither knows is None.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq import management
from agentpipe.brokers.rabbitmq.rpc import Request
from agentpipe.brokers.rabbitmq.tallies import by_queue
from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.address import RabbitAddress
    from agentpipe.brokers.rabbitmq.dead_letters import DeadLetters
    from agentpipe.brokers.rabbitmq.management import QueueFigures
    from agentpipe.brokers.rabbitmq.rpc import Member, Replies
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.rabbitmq.tallies import MeasuresSeen
    from agentpipe.brokers.records import Queue

# The registry changes rarely, and reading it takes its lock.
REGISTRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the workers reported, and what waits on the server.

    Attributes:
        queues: All queues to show; those that left their group only while they hold tasks.
        gone: The shown queues that left.
        asked: The queues whose messages the server counted.
    """

    replies: Replies
    waiting: Counter[str]
    queues: list[Queue]
    gone: set[Queue]
    asked: list[Queue]


async def count(services: Services, address: RabbitAddress, seen: MeasuresSeen) -> Stats:
    """Take a snapshot. A task that moves meanwhile can be counted twice, but is never missed.

    ``seen`` accumulates the workers' counters across snapshots.
    """
    registry = services.registry
    await registry.read(REGISTRY_S)
    due = await services.queues.delayed()
    found = await _ask(services)
    replies, waiting = found.replies, found.waiting
    # Count twice: the first includes tasks that come due meanwhile, the second newly delayed ones.
    delayed = max(due, await services.queues.delayed())
    outbox = await _outbox(services, address)
    tallies = by_queue(replies.each)
    running = sum((Counter(member.running) for member in replies.members), Counter[str]())
    depths = _Depths(services, found, running, tallies)
    return Stats(
        accepted=None,
        waiting=sum(waiting[queue.name] for queue in found.queues),
        delayed=delayed,
        running=running.total() if replies.complete else None,
        outbox=outbox.messages,
        outbox_bytes=outbox.size_bytes,
        delivered=None,
        dead=await count_letters(services, services.dead),
        undeliverable=await count_letters(services, services.undeliverable),
        outcomes=sum((Counter(reply.outcomes) for reply in replies.each), Counter[str]()),
        queues=tuple(map(depths.of, found.queues)),
        tally=replace(sum(tallies.values(), Tally()), error="", error_s=None),
        recent=sum(it.recent for it in replies.each) if replies.complete else None,
        requests=sum(len(registry.sources(queue)) for queue in found.asked),
        declared=registry.declared(),
        workers=tuple(map(worker_seen, sorted(replies.members, key=lambda it: it.name))),
        measures=seen.add(replies.each),
    )


async def _ask(services: Services) -> Asked:
    """Ask the workers, then ask the server about the queues that they do not fully know."""
    current, former = services.registry.current(), services.registry.former()
    replies = await services.ask(Request("tallies"))
    drained = {name for reply in replies.each for name in reply.drained}
    asked = [queue for queue in (*current, *former) if queue.name not in drained]
    waiting = Counter(await services.queues.waiting(asked))
    if asked:  # What waited there may have been delivered since.
        replies = await services.ask(Request("tallies"))
    gone = {queue for queue in former if waiting[queue.name]}
    for member in replies.members:
        waiting.update(member.prefetched)
    queues = [*current, *(queue for queue in former if queue in gone)]
    return Asked(replies, waiting, queues, gone, asked)


async def _outbox(services: Services, address: RabbitAddress) -> QueueFigures:
    """The outbox by the management API, with AMQP's newer count if all workers reply."""
    name = services.topology.shared("outbox").name
    ready = await services.queues.depth(name)
    forwarders = await services.ask(Request("members"))
    figures = await asyncio.to_thread(management.queue_figures, address)
    known = figures.get(name, management.UNKNOWN)
    if not forwarders.complete:
        return known
    return replace(known, messages=ready + sum(member.lent for member in forwarders.members))


@dataclass(frozen=True, slots=True)
class _Depths:
    services: Services
    found: Asked
    running: Counter[str]
    tallies: dict[str, Tally]

    def of(self, queue: Queue) -> QueueDepth:
        """The depth of one queue."""
        registry, replies = self.services.registry, self.found.replies
        cooldown_s = cooldown_of(queue.name, replies)
        return QueueDepth(
            queue.name,
            queue.collection,
            self.found.waiting[queue.name],
            None,
            self.running[queue.name] if replies.complete else None,
            queue.max_waiting,
            queue.concurrency,
            cooldown_s if cooldown_s or replies.complete else None,
            any(registry.pauses(queue.name)),
            self.tallies.get(queue.name, Tally()),
            registry.pause_reason(queue.name),
            queue.group,
            removed=queue in self.found.gone,
        )


async def count_letters(services: Services, letters: DeadLetters) -> int:
    """The number of letters of a kind."""
    return await services.queues.depth(letters.queue) + letters.looked_at


def cooldown_of(queue: str, replies: Replies) -> float:
    """The remaining seconds that the workers report; 0 without a cooldown."""
    return max([0.0, *(member.cooldowns.get(queue, 0.0) for member in replies.members)])


def worker_seen(member: Member) -> WorkerSeen:
    """A worker, as others see it."""
    running = sum(member.running.values())
    seen = (member.name, member.host, member.pid, member.slots, running)
    return WorkerSeen(*seen, member.seen_s, member.report.encode(), member.draining)
