"""The facts of an explanation as JSON, with the same keys in every state."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agentpipe.core.timestamps import utc
from agentpipe.operations.explain.phrases import up_for_s
from agentpipe.operations.explain.waiting import ESTIMATED, estimate_s, why_waiting

if TYPE_CHECKING:
    from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.operations.explain.reason import Reason
    from agentpipe.settings import OutboxLimits


def details_of(
    facts: TaskLocation,
    reason: Reason,
    now: float,
    limits: OutboxLimits,
    stream_position: int | None,
) -> dict[str, Any]:
    """Values are null or empty if they do not apply or are unknown."""
    agent = facts.agent if reason in ESTIMATED else None
    return {
        **_of_task(facts),
        "estimate_s": agent and estimate_s(agent, facts.position, now),
        "stream_position": stream_position,
        **_of_agent(facts.agent),
        "workers": [_worker(worker, facts.agent, now) for worker in facts.workers],
        "group": facts.group and asdict(facts.group),
        "loop": None,  # See ``with_loop``.
        "outbox": facts.outbox,
        "outbox_before": facts.outbox_before,
        "outbox_since": _moment(facts.outbox_since),
        "complete": facts.complete,
        "delayed": facts.delayed,
        "unclaimed": facts.unclaimed,
        "dead_unread": facts.dead_unread,
        "candidates": [_candidate(agent, facts, now, limits) for agent in facts.candidates],
    }


def _of_task(facts: TaskLocation) -> dict[str, Any]:
    return {
        "submitted_at": _moment(facts.submitted_at),
        "failures": facts.failures,
        "crashes": facts.crashes,
        "cancelled": facts.cancelled,
        "error": facts.error or None,
        "outcome": facts.outcome or None,
        "worker": facts.run and facts.run.worker,
        "due_at": _moment(facts.due_at),
        "position": facts.position,
    }


def _of_agent(agent: AgentSeen | None) -> dict[str, Any]:
    return {
        "agent": agent and agent.queue,
        "collection": agent and agent.collection,
        "waiting": agent and agent.waiting,
        "concurrency": agent and agent.concurrency,
        "held_s": round(agent.cooldown_s, 3) if agent else None,
        "run_s": agent and agent.run_s and round(agent.run_s, 3),
        "runs": [_run(run) for run in (agent.runs if agent else ())],
        "gate_limit": agent and agent.group_limit,
        "gate_runs": [_run(run) for run in (agent.group_runs if agent else ())],
    }


def _run(run: ClaimSeen) -> dict[str, Any]:
    return {
        "task_id": run.task_id,
        "agent": run.queue,
        "worker": run.worker,
        "since": _moment(run.since),
    }


def _worker(worker: WorkerSeen, agent: AgentSeen | None, now: float) -> dict[str, Any]:
    up_s = up_for_s(worker)
    servers = agent.servers if agent else None
    return {
        "worker": worker.name,
        "since": None if up_s is None else utc(now - up_s),
        "slots": worker.slots,
        "running": worker.running,
        "serves": None if servers is None else worker.name in {it.name for it in servers},
    }


def _candidate(
    agent: AgentSeen, facts: TaskLocation, now: float, limits: OutboxLimits
) -> dict[str, Any]:
    cause = why_waiting(agent, facts, now, limits)
    return {
        **_of_agent(agent),
        "since": _moment(cause.since),
        "reason": cause.reason,
        "sentence": cause.sentence,
        "next": cause.next,
    }


def _moment(moment: float | None) -> str | None:
    return None if moment is None else utc(moment)
