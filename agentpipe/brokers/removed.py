"""Removed agents: they left their collection, so no worker claims their tasks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.text import counted

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentpipe.brokers.statistics import QueueDepth, Stats

MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class RemovedAgents:
    """The removed agents of one collection that still have waiting or delayed tasks."""

    collection: str
    agents: tuple[str, ...]
    tasks: int

    @property
    def sentence(self) -> str:
        """The problem and its remedy."""
        more = len(self.agents) - MAX_NAMED
        names = [*self.agents[:MAX_NAMED], *([f"{more:,} more"] if more > 0 else [])]
        wait = "waits" if self.tasks == 1 else "wait"
        return (
            f"{counted(self.tasks, 'task')} {wait} with agents that {self.collection} no longer "
            f"has ({', '.join(names)}), and no worker takes them: "
            f"agentpipe rebalance {self.collection} moves them to the agents that there are"
        )


def removed_agents(
    stats: Stats, collections: Collection[str], kept: Collection[str] | None = None
) -> list[RemovedAgents]:
    """Return the removed agents of ``collections`` that still have tasks.

    ``kept`` holds all agents of these collections from a file that the fleet does not follow yet.
    If given, an agent counts as removed if it is not in ``kept``.
    """
    found: dict[str, list[QueueDepth]] = defaultdict(list)
    for depth in stats.queues:
        gone = depth.removed if kept is None else depth.queue not in kept
        if gone and depth.collection in collections and _left(depth):
            found[depth.collection or ""].append(depth)
    return [
        RemovedAgents(name, tuple(it.queue for it in mine), sum(map(_left, mine)))
        for name, mine in found.items()
    ]


def _left(depth: QueueDepth) -> int:
    return (depth.waiting or 0) + (depth.delayed or 0)
