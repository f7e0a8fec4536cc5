"""Where a task is, as far as workers know.

Finding a message in a queue would mean taking all messages before it, so it is not tried. We also
know how many tasks wait, are delayed, are in the outbox, and are dead.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
from agentpipe.brokers.rabbitmq.inspection import cooldown_of, count_letters, worker_seen
from agentpipe.brokers.rabbitmq.rpc import Request
from agentpipe.brokers.rabbitmq.topology import unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.rabbitmq.rpc import Member, Replies, TaskHeld
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Queue

# Maximum number of agents to list for a task that was not found; longer lists are not read.
MAX_CANDIDATES = 20


async def locate(services: Services, task_id: str) -> TaskLocation:
    """What workers know about a task; if no worker has it, ``unknown`` with candidates."""
    await services.registry.read()
    replies = await services.ask(Request("locate", task_id=task_id))
    found = [(reply.member, held) for reply in replies.each for held in reply.found]
    if found:
        # A run is more informative than a copy that waits elsewhere.
        place = await _held(services, task_id, replies, *min(found, key=lambda it: not it[1].since))
    else:
        place = await _unknown(services, task_id, replies)
    ready = await services.queues.depth(services.topology.shared("outbox").name)
    lent = sum(member.lent for member in replies.members)
    return replace(place, outbox=ready + lent, workers=tuple(map(worker_seen, replies.members)))


async def _held(
    services: Services, task_id: str, replies: Replies, member: Member, held: TaskHeld
) -> TaskLocation:
    queue = services.registry.limits(held.queue)
    [agent] = await _agents(services, [queue], replies)
    return TaskLocation(
        task_id,
        "running" if held.since else "waiting",
        complete=False,
        agent=agent,
        submitted_at=held.submitted_at,
        failures=held.failures,
        crashes=held.crashes,
        cancelled=held.cancelled,
        error=held.error,
        run=ClaimSeen(task_id, queue.name, member.name, held.since) if held.since else None,
    )


async def _unknown(services: Services, task_id: str, replies: Replies) -> TaskLocation:
    queues = [*services.registry.current(), *services.registry.former()]
    agents = [it for it in await _agents(services, queues, replies) if it.waiting]
    return TaskLocation(
        task_id,
        "unknown",
        complete=False,
        candidates=tuple(agents[:MAX_CANDIDATES]),
        delayed=await services.queues.delayed(),
        unclaimed=sum(agent.waiting or 0 for agent in agents),
        dead_unread=await count_letters(services, services.dead),
    )


async def _agents(services: Services, queues: Sequence[Queue], replies: Replies) -> list[AgentSeen]:
    """Agents with their tasks waiting on the server and at workers, and what can block them."""
    waiting = Counter(await services.queues.waiting(queues))
    for member in replies.members:
        waiting.update(member.prefetched)
    runs = [run for reply in replies.each for run in reply.runs]
    runs.sort(key=lambda run: run.since or 0.0)
    return [_agent(services, queue, waiting[queue.name], runs, replies) for queue in queues]


def _agent(
    services: Services, queue: Queue, waiting: int, runs: Sequence[ClaimSeen], replies: Replies
) -> AgentSeen:
    registry, name, group = services.registry, queue.name, queue.concurrency_group
    own, whole = registry.pauses(name)
    grouped = [run for run in runs if group and registry.unit_of(run.queue) == unit_of(queue)]
    return AgentSeen(
        name,
        queue.collection,
        queue.concurrency,
        waiting=waiting,
        paused=own,
        collection_paused=whole,
        pause_reason=registry.pause_reason(name),
        cooldown_s=cooldown_of(name, replies),
        runs=tuple(run for run in runs if run.queue == name),
        group_limit=queue.concurrency_group_limit if group else None,
        group_runs=tuple(grouped),
        servers=tuple(worker_seen(it) for it in replies.members if name in it.queues),
        run_s=next((it.run_s[name] for it in replies.each if name in it.run_s), None),
    )
