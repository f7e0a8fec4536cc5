"""Why a waiting task is not claimed: the first of several obstacles.

An earlier obstacle hides later ones: if an agent is paused, missing workers do not matter.
"""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from agentpipe.brokers.breaker import remedy
from agentpipe.core.text import counted, duration
from agentpipe.operations.explain.phrases import runs, sink_trouble, workers
from agentpipe.operations.explain.reason import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
    from agentpipe.core.budgets import Spending
    from agentpipe.core.policy import PolicyState
    from agentpipe.settings import OutboxLimits

# Reasons where the task waits only for its agent's own runs, so its start can be estimated.
ESTIMATED = ("agent_busy", "behind", "next")


def why_waiting(agent: AgentSeen, facts: TaskLocation, now: float, limits: OutboxLimits) -> Cause:
    """The first obstacle for a task that waits for this agent."""
    return (
        _if_paused(agent)
        or _if_spent(agent, facts)
        or _if_unserved(agent, facts)
        or _if_outbox_full(facts, limits)
        or _if_held(agent, facts)
        or _if_group_full(agent, now)
        or _if_busy(agent, facts, now)
        or _if_slots_full(agent)
        or _in_its_turn(agent, facts, now)
    )


def _if_paused(agent: AgentSeen) -> Cause | None:
    why = f": {agent.pause_reason}" if agent.pause_reason else ""
    if agent.paused:
        name, sentence = agent.queue, f"its agent {agent.queue} is paused{why}"
        return Cause("agent_paused", sentence, f"agentpipe resume {shlex.quote(name)}")
    if agent.collection_paused:
        name, sentence = str(agent.collection), f"its collection {agent.collection} is paused{why}"
        what = remedy(name) if why else f"agentpipe resume {shlex.quote(name)}"
        return Cause("collection_paused", sentence, what)
    return None


def _if_spent(agent: AgentSeen, facts: TaskLocation) -> Cause | None:
    for spending in (agent.spending, facts.spending):
        if spending is not None and spending.is_spent:
            return because_spent(spending)
    return None


def because_spent(spending: Spending) -> Cause:
    """No task is claimed once the budget's cap is reached."""
    what = f"what runs finishes; a higher cap allows more: {spending.remedy}"
    return Cause("budget_spent", spending.reason, what)


def because_ahead(state: PolicyState) -> Cause:
    """No more groups begin than a trainer can use before they are too old."""
    spec = state.spec
    sentence = (
        f"policy {state.name} has version {state.version}, and allows ({spec.max_staleness} + "
        f"{state.version} + 1) * {spec.batch} = {state.allowed:,} groups to begin: "
        f"{state.accepted:,} are accepted, {state.running:,} are running"
    )
    what = f"it may begin after the next version: agentpipe policy publish {state.name} --version N"
    return Cause("policy_ahead", sentence, what)


def _if_unserved(agent: AgentSeen, facts: TaskLocation) -> Cause | None:
    if agent.servers is None or agent.servers:
        return None
    sentence = f"no worker serves {agent.queue}, and no other worker is running"
    if facts.workers:
        sentence = f"no worker serves {agent.queue}; these serve others: {workers(facts.workers)}"
    return Cause("no_worker", sentence, "start workers with its collection file: agentpipe work")


def _if_outbox_full(facts: TaskLocation, limits: OutboxLimits) -> Cause | None:
    if not limits.reached_by(facts.outbox, facts.outbox_bytes):
        return None
    sentence = f"workers claim nothing while {counted(facts.outbox, 'result')} wait for the sink"
    if trouble := sink_trouble(facts.workers):
        sentence += f"; {trouble}"
    what = "repair the sink, or see the workers' logs; claims then resume by themselves"
    return Cause("outbox_full", sentence, what, facts.outbox_since)


def _if_held(agent: AgentSeen, facts: TaskLocation) -> Cause | None:
    if agent.cooldown_s <= 0:
        return None
    left = duration(agent.cooldown_s)
    after = f", after {facts.error}" if facts.error else ""
    sentence = f"its agent is in cooldown for another {left}{after}"
    return Cause("agent_held", sentence, f"workers claim from its agent again in {left}")


def _if_group_full(agent: AgentSeen, now: float) -> Cause | None:
    if agent.group_limit is None or len(agent.group_runs) < agent.group_limit:
        return None
    if len(agent.runs) >= agent.concurrency:
        return None  # The agent's own limit is the more specific reason.
    sentence = (
        f"its concurrency group is full (limit {agent.group_limit}): {runs(agent.group_runs, now)}"
    )
    what = "it may run when one of these ends"
    return Cause("gate_full", sentence, what, first(agent.group_runs))


def _if_busy(agent: AgentSeen, facts: TaskLocation, now: float) -> Cause | None:
    if not agent.runs or len(agent.runs) < agent.concurrency:
        return None
    sentence = f"its agent is busy with {runs(agent.runs, now)}"
    return Cause("agent_busy", sentence, _when(agent, facts, now), first(agent.runs))


def _if_slots_full(agent: AgentSeen) -> Cause | None:
    """Whether all slots of the workers that serve the agent are busy."""
    servers = agent.servers or ()
    slots, running = (sum(getattr(it, name) for it in servers) for name in ("slots", "running"))
    if not servers or running < slots:
        return None
    sentence = f"all {counted(slots, 'slot')} of the workers that serve its agent are busy"
    what = "it is claimed when a slot is free; add workers, or raise --slots"
    return Cause("slots_full", sentence, what)


def _in_its_turn(agent: AgentSeen, facts: TaskLocation, now: float) -> Cause:
    if facts.position is None and (agent.waiting or 0) > 1:
        what = "queue position unknown with this broker; it is claimed in its turn"
        return Cause("behind", f"{counted(agent.waiting or 0, 'task')} wait there", what)
    before = (facts.position or 1) - 1
    if before:
        return Cause("behind", f"{counted(before, 'task')} before it", _when(agent, facts, now))
    return Cause("next", "next to be claimed", "a worker with a free slot claims it now")


def _when(agent: AgentSeen, facts: TaskLocation, now: float) -> str:
    seconds = estimate_s(agent, facts.position, now)
    if seconds is not None:
        return f"it begins in about {duration(seconds)}, judging by recent runs"
    if facts.position is None:
        return "queue position unknown with this broker; it is claimed in its turn"
    return "it is claimed in its turn; no estimate before its first run has ended"


def estimate_s(agent: AgentSeen, position: int | None, now: float) -> float | None:
    """Seconds until the start, if runs last as recently and only the agent's limit counts."""
    if agent.run_s is None or position is None:
        return None
    parallel = max(1, min(agent.concurrency, agent.group_limit or agent.concurrency))
    free = max(0, parallel - len(agent.runs))
    rounds = math.ceil(max(0, position - free) / parallel)
    begun = first(agent.runs)
    gone_s = 0.0 if begun is None or not rounds else min(agent.run_s, now - begun)
    return round(max(0.0, rounds * agent.run_s - gone_s), 1)


def first(found: Iterable[ClaimSeen]) -> float | None:
    """The start of the oldest of these runs."""
    return min((run.since for run in found if run.since is not None), default=None)
