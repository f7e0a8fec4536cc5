"""Slots: how many concurrent runs a worker process has room for."""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from agentpipe.sending.actor import AgentActor

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dramatiq

MAX_SLOTS = 1_000
# The default of `dramatiq --threads` and of `dramatiq.Worker`.
DRAMATIQ_THREADS = 8


def slots_for(broker: dramatiq.Broker, threads: int) -> int:
    """As many slots as Dramatiq was given threads; by default, as many as the actors can use.

    Agents can use what their limits allow; all plain actors together get Dramatiq's default.
    """
    if threads != DRAMATIQ_THREADS or _were_given(sys.argv):
        return max(1, threads)
    actors = list(broker.actors.values())
    agents = [it for it in actors if isinstance(it, AgentActor)]
    plain = [it for it in actors if not isinstance(it, AgentActor)]
    return max(1, min(MAX_SLOTS, _of_agents(agents) + _of_plain(plain)))


def _were_given(argv: Iterable[str]) -> bool:
    """Whether the command line sets the threads; their value alone does not show that."""
    return any(re.match(r"-t\d*$|--t(h|hr|hre|hrea|hread|hreads)?(=|$)", arg) for arg in argv)


def _of_agents(agents: Iterable[AgentActor]) -> int:
    wanted = 0
    grouped: Counter[tuple[str, int]] = Counter()
    for agent in agents:
        group, runs = agent.spec.concurrency_group, agent.collection.concurrency
        if group is None:
            wanted += runs
        else:
            grouped[group, agent.spec.concurrency_group_limit] += runs
    return wanted + sum(min(limit, runs) for (_, limit), runs in grouped.items())


def _of_plain(actors: Iterable[dramatiq.Actor[..., Any]]) -> int:
    limits: dict[str, int] = {}
    for actor in actors:
        given = actor.options.get("concurrency", DRAMATIQ_THREADS)
        limits[actor.queue_name] = min(given, limits.get(actor.queue_name, DRAMATIQ_THREADS))
    return min(DRAMATIQ_THREADS, sum(limits.values()))
