"""TaskLocation: what server and workers can tell of one task.

A message that lies in a queue cannot be found without taking all that lie before it, so that
this is not tried: what waits, is delayed or settled is known only as far as a worker has it. What
can be told is how many there are of each.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
from agentpipe.brokers.rabbitmq.asking import ask
from agentpipe.brokers.rabbitmq.counting import delayed_tasks, waiting_tasks, worker_seen
from agentpipe.brokers.rabbitmq.crew import Member

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.dead_letter import DeadLetter
    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.records import Queue

# Agents with whom a task may wait; more would not be read.
MAX_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class _Crew:
    """The workers, and what runs with them, the oldest first."""

    told: Sequence[dict[str, Any]]
    members: Sequence[Member]
    runs: Sequence[ClaimSeen]

    @classmethod
    def of(cls, told: Sequence[dict[str, Any]]) -> Self:
        runs = [
            ClaimSeen(task_id, queue, each["name"], since)
            for each in told
            for task_id, queue, since in each["runs"]
        ]
        by_age = sorted(runs, key=lambda run: run.since or 0.0)
        return cls(told, [Member.decode(each) for each in told], by_age)


async def where_is(desk: Desk, task_id: str) -> TaskLocation:
    """What workers know of it; ``unknown`` with what may explain it where none has it."""
    await desk.registry.read(0)
    told, _ = await ask(desk, {"kind": "where", "id": task_id})
    crew = _Crew.of(told)
    found = [(each["name"], mine) for each in told for mine in each["found"]]
    if found:
        # A copy that lies ready elsewhere says less than the run.
        worker, mine = min(found, key=lambda pair: pair[1]["since"] is None)
        queue = desk.limits(mine["queue"])
        waiting = await _waiting(desk, [queue], crew)
        facts = _found(task_id, mine, worker, _agent(desk, queue, waiting, crew))
    else:
        facts = await _unknown(desk, task_id, crew)
    outbox = await desk.count(desk.names.outbox.name) or 0
    outbox += sum(member.lent for member in crew.members)
    return replace(facts, outbox=outbox, workers=tuple(map(worker_seen, crew.members)))


async def _unknown(desk: Desk, task_id: str, crew: _Crew) -> TaskLocation:
    queues = [*desk.registry.current(), *desk.registry.former()]
    waiting = await _waiting(desk, queues, crew)
    candidates = [queue for queue in queues if waiting[queue.name]][:MAX_CANDIDATES]
    return TaskLocation(
        task_id,
        "unknown",
        complete=False,
        candidates=tuple(_agent(desk, queue, waiting, crew) for queue in candidates),
        delayed=await delayed_tasks(desk),
        unclaimed=waiting.total(),
    )


async def _waiting(desk: Desk, queues: Sequence[Queue], crew: _Crew) -> Counter[str]:
    """How many tasks of each agent nobody has claimed, on the server and with workers."""
    waiting = Counter(await waiting_tasks(desk, queues))
    for member in crew.members:
        waiting.update(member.prefetched)
    return waiting


async def of_dead(desk: Desk, facts: TaskLocation, letter: DeadLetter) -> TaskLocation:
    """The same once its dead letter was found."""
    concurrency = desk.limits(letter.queue).concurrency
    return TaskLocation(
        letter.task_id,
        "dead",
        complete=False,
        agent=AgentSeen(letter.queue, letter.collection, concurrency),
        error=letter.reason,
        since=letter.died_at,
        outcome=letter.outcome,
        outbox=facts.outbox,
        workers=facts.workers,
    )


def _found(task_id: str, found: dict[str, Any], worker: str, agent: AgentSeen) -> TaskLocation:
    since = found["since"]
    return TaskLocation(
        task_id,
        "waiting" if since is None else "running",
        complete=False,
        agent=agent,
        submitted_at=found["submitted_at"],
        failures=found["failures"],
        crashes=found["crashes"],
        cancelled=found["cancelled"],
        error=found["error"],
        run=None if since is None else ClaimSeen(task_id, agent.queue, worker, since),
    )


def _agent(desk: Desk, queue: Queue, waiting: Mapping[str, int], crew: _Crew) -> AgentSeen:
    own, whole = desk.registry.pauses(queue.name)
    group = queue.concurrency_group
    gated = [r for r in crew.runs if group and desk.limits(r.queue).concurrency_group == group]
    took = [each["run_s"][queue.name] for each in crew.told if queue.name in each["run_s"]]
    return AgentSeen(
        queue.name,
        queue.collection,
        queue.concurrency,
        waiting=waiting[queue.name],
        paused=own,
        collection_paused=whole,
        cooldown_s=max([0.0, *(member.held.get(queue.name, 0.0) for member in crew.members)]),
        runs=tuple(run for run in crew.runs if run.queue == queue.name),
        group_limit=queue.concurrency_group_limit if queue.concurrency_group else None,
        group_runs=tuple(gated),
        servers=tuple(worker_seen(it) for it in crew.members if queue.name in it.queues),
        run_s=next(iter(took), None),
    )
