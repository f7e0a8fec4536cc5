"""Whereabouts: what server and workers can tell of one task.

A message that lies in a queue cannot be found without taking all that lie before it, so that
this is not tried: what waits, is delayed or settled is known only as far as a worker has it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.asking import ask
from agentpipe.brokers.rabbitmq.crew import Member
from agentpipe.brokers.store import AgentSeen, Run, Whereabouts, WorkerSeen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.store import DeadLetter, Queue

# Agents with whom a task may wait; more would not be read.
MAX_CANDIDATES = 20


async def where_is(desk: Desk, task_id: str, letter: DeadLetter | None = None) -> Whereabouts:
    """See ``Store.where``; ``letter`` is its dead letter, where one was found."""
    await desk.registry.read(0)
    told, _ = await ask(desk, {"kind": "where", "id": task_id})
    outbox = await desk.count(desk.names.outbox.name) or 0
    outbox += sum(each["lent"] for each in told)
    workers = tuple(_worker(each) for each in told)
    for each in told:
        for found in each["found"]:
            agent = await _agent(desk, desk.limits(found["queue"]), told)
            with_worker = _found(task_id, found, each["name"], agent)
            return replace(with_worker, outbox=outbox, workers=workers)
    if letter is not None:
        agent = await _agent(desk, desk.limits(letter.queue), told)
        return replace(_dead(letter, agent), outbox=outbox, workers=workers)
    candidates = await _candidates(desk, told)
    return Whereabouts(
        task_id, "unknown", complete=False, outbox=outbox, workers=workers, candidates=candidates
    )


def _found(task_id: str, found: dict[str, Any], worker: str, agent: AgentSeen) -> Whereabouts:
    since = found["since"]
    return Whereabouts(
        task_id,
        "waiting" if since is None else "running",
        complete=False,
        agent=agent,
        submitted_at=found["submitted_at"],
        failures=found["failures"],
        crashes=found["crashes"],
        cancelled=found["cancelled"],
        error=found["error"],
        run=None if since is None else Run(task_id, agent.queue, worker, since),
    )


def _dead(letter: DeadLetter, agent: AgentSeen) -> Whereabouts:
    return Whereabouts(
        letter.task_id,
        "dead",
        complete=False,
        agent=agent,
        error=letter.reason,
        since=letter.died_at,
        outcome=letter.outcome,
    )


async def _candidates(desk: Desk, told: Sequence[dict[str, Any]]) -> tuple[AgentSeen, ...]:
    """The agents that have tasks waiting."""
    found: list[AgentSeen] = []
    for queue in (*desk.registry.current(), *desk.registry.former()):
        agent = await _agent(desk, queue, told)
        if agent.waiting and len(found) < MAX_CANDIDATES:
            found.append(agent)
    return tuple(found)


async def _agent(desk: Desk, queue: Queue, told: Sequence[dict[str, Any]]) -> AgentSeen:
    own, whole = desk.registry.pauses(queue.name)
    members = [Member.decode(each) for each in told]
    runs = [
        Run(task_id, name, each["name"], since)
        for each in told
        for task_id, name, since in each["runs"]
    ]
    behind_gate = [run for run in runs if queue.gate and desk.limits(run.queue).gate == queue.gate]
    counts = [await desk.count(source.name) for source in desk.sources(queue)]
    return AgentSeen(
        queue.name,
        queue.collection,
        queue.concurrency,
        waiting=sum(number or 0 for number in counts)
        + sum(member.prefetched.get(queue.name, 0) for member in members),
        paused=own,
        collection_paused=whole,
        held_s=max([0.0, *(member.held.get(queue.name, 0.0) for member in members)]),
        runs=tuple(run for run in runs if run.queue == queue.name),
        gate_limit=queue.gate_limit if queue.gate else None,
        gate_runs=tuple(behind_gate),
        servers=tuple(
            _worker(each)
            for each, member in zip(told, members, strict=True)
            if queue.name in member.queues
        ),
        run_s=next(
            (each["run_s"][queue.name] for each in told if queue.name in each["run_s"]), None
        ),
    )


def _worker(told: dict[str, Any]) -> WorkerSeen:
    running = sum(told["running"].values())
    return WorkerSeen(told["name"], told["host"], told["pid"], told["slots"], running, 0.0)
