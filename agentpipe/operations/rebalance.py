"""Rebalance: moves tasks of removed agents to the agents that their collection still has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import MovesTasks, require
from agentpipe.brokers.removed import removed_agents
from agentpipe.operations.names import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import QueueDepth, Stats

PORTION = 500


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """The outcome for the tasks.

    Attributes:
        agents: The collection's removed agents that had tasks.
        moved: Number of tasks moved, or that a dry run would move.
        left: Number of tasks left, because the present agents have no room.
    """

    collection: str
    agents: tuple[str, ...]
    moved: int
    left: int
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe rebalance``."""
        return {
            "collection": self.collection,
            "agents": list(self.agents),
            "moved": self.moved,
            "left": self.left,
            "dry_run": self.dry_run,
        }


def rebalance(store: Store, collection: str, *, dry_run: bool = False) -> Rebalanced:
    """Move all tasks that wait or are delayed with agents the collection no longer has.

    Raises:
        ConfigError: The broker does not know the collection, or cannot move tasks.
    """
    mover, stats = require(store, MovesTasks, "move tasks"), store.stats()
    refuse_unknown("collection", [collection], {it.collection or "" for it in _there(stats)})
    agents, tasks = _removed(stats, collection)
    if dry_run:
        moved = min(tasks, _room(stats, collection))
        return Rebalanced(collection, agents, moved, tasks - moved, dry_run)
    moved, there, left = 0, agents, tasks
    while there:
        now = _move_all(mover, collection, there)
        moved += now
        # Delayed tasks that fell due meanwhile can have escaped.
        there, left = _removed(store.stats(), collection)
        if not now:
            break
    return Rebalanced(collection, agents, moved, left, dry_run)


def _move_all(mover: MovesTasks, collection: str, agents: Sequence[str]) -> int:
    moved = 0
    while now := mover.move(collection, agents, PORTION):
        moved += now
    return moved


def _removed(stats: Stats, collection: str) -> tuple[tuple[str, ...], int]:
    found = removed_agents(stats, [collection])
    return (found[0].agents, found[0].tasks) if found else ((), 0)


def _there(stats: Stats) -> list[QueueDepth]:
    return [depth for depth in stats.queues if depth.collection and not depth.removed]


def _room(stats: Stats, collection: str) -> int:
    mine = (depth for depth in _there(stats) if depth.collection == collection)
    return sum(max(0, it.limit - (it.waiting or 0) - (it.delayed or 0)) for it in mine)
