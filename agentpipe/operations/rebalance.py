"""Rebalance: moves tasks of removed agents to the agents that their collection still has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import MovesTasks, require
from agentpipe.brokers.removed import removed_agents
from agentpipe.brokers.statistics import QueueDepth
from agentpipe.operations.misfits import is_behind
from agentpipe.operations.names import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import Stats
    from agentpipe.config.collection import Collection

PORTION = 500
MOVE = "move tasks"


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


def plan(store: Store, collection: str, named: Iterable[Collection] = ()) -> Rebalanced:
    """What ``rebalance`` would do once the ``named`` collections are declared; changes nothing.

    Raises:
        ConfigError: As ``rebalance``.
    """
    require(store, MovesTasks, MOVE)
    stats = reduce(_as_declared, named, store.stats())
    agents, tasks = _known(stats, collection)
    moved = min(tasks, _room(stats, collection))
    return Rebalanced(collection, agents, moved, tasks - moved, dry_run=True)


def rebalance(store: Store, collection: str) -> Rebalanced:
    """Move all tasks that wait or are delayed with agents the collection no longer has.

    Raises:
        ConfigError: The broker does not know the collection, or cannot move tasks.
    """
    mover = require(store, MovesTasks, MOVE)
    there, left = _known(store.stats(), collection)
    agents, moved = there, 0
    while there:
        now = _move_all(mover, collection, there)
        moved += now
        # Delayed tasks that fell due meanwhile can have escaped.
        there, left = _removed(store.stats(), collection)
        if not now:
            break
    return Rebalanced(collection, agents, moved, left, dry_run=False)


def _as_declared(stats: Stats, collection: Collection) -> Stats:
    """The statistics once a sender has declared the collection: its agents and limits count."""
    if is_behind(stats, collection):
        return stats
    agents = {spec.queue for spec in collection.agents}
    name, limit = collection.name, collection.max_queue_size
    mine = (it for it in stats.queues if it.collection == name)
    known = {it.queue: replace(it, removed=it.queue not in agents, limit=limit) for it in mine}
    new = {it: QueueDepth(it, name, 0, 0, 0, limit, 1) for it in sorted(agents - known.keys())}
    others = (it for it in stats.queues if it.collection != name)
    return replace(stats, queues=(*others, *known.values(), *new.values()))


def _known(stats: Stats, collection: str) -> tuple[tuple[str, ...], int]:
    """The removed agents that have tasks, and how many, of a collection that there is."""
    refuse_unknown("collection", [collection], {it.collection or "" for it in _there(stats)})
    return _removed(stats, collection)


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
