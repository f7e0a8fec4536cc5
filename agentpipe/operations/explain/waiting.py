"""Waiting: what keeps an agent from its next task, the first of several that says enough.

What stands first hides the others: an agent that is paused would not be served by any worker
anyway.
"""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from agentpipe.core.text import counted, duration
from agentpipe.operations.explain.phrases import runs, sink_trouble, workers
from agentpipe.operations.explain.reason import Told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
    from agentpipe.settings import OutboxLimits

# Where only the agent's own runs stand before a task, something can be said of when it begins.
ESTIMATED = ("agent_busy", "behind", "next")


def why_waiting(agent: AgentSeen, facts: TaskLocation, now: float, limits: OutboxLimits) -> Told:
    """Why a task that waits with this agent is not claimed."""
    return (
        _if_paused(agent)
        or _if_unserved(agent, facts)
        or _if_outbox_full(facts, limits)
        or _if_held(agent, facts)
        or _if_group_full(agent, now)
        or _if_busy(agent, facts, now)
        or _if_slots_full(agent)
        or _in_its_turn(agent, facts, now)
    )


def _if_paused(agent: AgentSeen) -> Told | None:
    if agent.paused:
        return _paused("agent_paused", f"its agent {agent.queue} is paused", agent.queue)
    if agent.collection_paused:
        name = str(agent.collection)
        return _paused("collection_paused", f"its collection {name} is paused", name)
    return None


def _paused(reason: str, sentence: str, target: str) -> Told:
    return Told(reason, sentence, f"agentpipe resume {shlex.quote(target)}")  # type: ignore[arg-type]


def _if_unserved(agent: AgentSeen, facts: TaskLocation) -> Told | None:
    if agent.servers is None or agent.servers:
        return None
    sentence = f"no worker serves {agent.queue}, and no other worker is up"
    if facts.workers:
        sentence = f"no worker serves {agent.queue}; these serve others: {workers(facts.workers)}"
    return Told("no_worker", sentence, "start workers with its collection file: agentpipe work")


def _if_outbox_full(facts: TaskLocation, limits: OutboxLimits) -> Told | None:
    if not limits.reached_by(facts.outbox, facts.outbox_bytes):
        return None
    sentence = f"workers claim nothing while {counted(facts.outbox, 'result')} wait for the sink"
    if trouble := sink_trouble(facts.workers):
        sentence += f"; {trouble}"
    what = "bring the sink back, or see the workers' logs; claims then go on by themselves"
    return Told("outbox_full", sentence, what, facts.outbox_since)


def _if_held(agent: AgentSeen, facts: TaskLocation) -> Told | None:
    if agent.cooldown_s <= 0:
        return None
    left = duration(agent.cooldown_s)
    after = f", after {facts.error}" if facts.error else ""
    sentence = f"the service of its agent asked to be left alone for {left} more{after}"
    return Told("agent_held", sentence, f"its agent is claimed from again in {left}")


def _if_group_full(agent: AgentSeen, now: float) -> Told | None:
    if agent.group_limit is None or len(agent.group_runs) < agent.group_limit:
        return None
    if len(agent.runs) >= agent.concurrency:
        return None  # Its own limit says more.
    sentence = (
        f"its context's credential may be used by {agent.group_limit} at a time, and is, by "
        f"{runs(agent.group_runs, now)}"
    )
    return Told("gate_full", sentence, "it may run when one of these ends", first(agent.group_runs))


def _if_busy(agent: AgentSeen, facts: TaskLocation, now: float) -> Told | None:
    if not agent.runs or len(agent.runs) < agent.concurrency:
        return None
    sentence = f"its agent is busy with {runs(agent.runs, now)}"
    return Told("agent_busy", sentence, _when(agent, facts, now), first(agent.runs))


def _if_slots_full(agent: AgentSeen) -> Told | None:
    """Those that serve it run others in all of their slots."""
    servers = agent.servers or ()
    slots, running = (sum(getattr(it, name) for it in servers) for name in ("slots", "running"))
    if not servers or running < slots:
        return None
    sentence = f"the workers that serve its agent use all their {counted(slots, 'slot')} for others"
    what = "it is claimed once a slot is free; more workers, or --slots, would help"
    return Told("slots_full", sentence, what)


def _in_its_turn(agent: AgentSeen, facts: TaskLocation, now: float) -> Told:
    if facts.position is None and (agent.waiting or 0) > 1:
        what = "this broker does not tell positions; it is claimed in its turn"
        return Told("behind", f"{counted(agent.waiting or 0, 'task')} wait there", what)
    before = (facts.position or 1) - 1
    if before:
        verb = "is" if before == 1 else "are"
        return Told("behind", f"{before:,} {verb} before it", _when(agent, facts, now))
    return Told("next", "it is the next to be claimed", "a worker with a free slot claims it now")


def _when(agent: AgentSeen, facts: TaskLocation, now: float) -> str:
    seconds = estimate_s(agent, facts.position, now)
    if seconds is not None:
        return f"it begins in about {duration(seconds)}, as its agent's runs took lately"
    if facts.position is None:
        return "this broker does not tell positions; it is claimed in its turn"
    return "it is claimed in its turn; no run of its agent has ended yet to tell when"


def estimate_s(agent: AgentSeen, position: int | None, now: float) -> float | None:
    """When it begins, if runs take as long as lately, and nothing but its agent's limit counts."""
    if agent.run_s is None or position is None:
        return None
    abreast = max(1, min(agent.concurrency, agent.group_limit or agent.concurrency))
    free = max(0, abreast - len(agent.runs))
    rounds = math.ceil(max(0, position - free) / abreast)
    begun = first(agent.runs)
    gone_s = 0.0 if begun is None or not rounds else min(agent.run_s, now - begun)
    return round(max(0.0, rounds * agent.run_s - gone_s), 1)


def first(found: Iterable[ClaimSeen]) -> float | None:
    """Since when the oldest of these runs."""
    return min((run.since for run in found if run.since is not None), default=None)
