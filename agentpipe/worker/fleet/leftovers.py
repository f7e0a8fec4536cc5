"""Leftovers: tasks that a burst leaves behind because they cannot run here, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from agentpipe.brokers.breaker import remedy
from agentpipe.brokers.removed import removed_agents
from agentpipe.core.budgets import budget_line
from agentpipe.core.text import counted
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.removed import RemovedAgents
    from agentpipe.brokers.statistics import QueueDepth, Stats, WorkerSeen
    from agentpipe.core.budgets import Spending
    from agentpipe.core.policy import PolicyState


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Why tasks are left.

    Attributes:
        paused: Pause reasons, by collection, or by queue outside any collection.
        spent: Budgets that keep tasks back.
        full: Policies that keep tasks back until they have a later version.
        removed: Agents that left their collection.
        left_alone: Number of tasks that were sent with another config.
    """

    paused: Mapping[str, str] = field(default_factory=dict)
    spent: Sequence[Spending] = ()
    full: Sequence[PolicyState] = ()
    removed: Sequence[RemovedAgents] = ()
    left_alone: int = 0

    @classmethod
    def of(cls, stats: Stats, queues: frozenset[str], collections: frozenset[str]) -> Self:
        """Find what keeps tasks of these queues back, in a snapshot in which none of them runs."""
        mine = [depth for depth in stats.queues if depth.queue in queues]
        return cls(
            paused={
                depth.collection or depth.queue: depth.pause_reason
                for depth in mine
                if depth.pause_reason and not depth.budget_spent
            },
            spent=[it for it in stats.spendings if it.is_spent and _keeps_back(it, mine)],
            full=_full(stats.policies) if any(depth.parked for depth in mine) else (),
            removed=removed_agents(stats, collections),
            left_alone=left_alone_by(stats.workers),
        )

    @property
    def lines(self) -> list[str]:
        """A line for the log on each."""
        lines = [
            f"nothing more runs: {name} is paused: {reason}; {remedy(name)}"
            for name, reason in self.paused.items()
        ]
        lines += [
            f"nothing more runs of {it.kind} {it.name}: {budget_line(it)}" for it in self.spent
        ]
        lines += [
            f"nothing more begins for policy {it.name} until it has a version after {it.version}"
            for it in self.full
        ]
        lines += [each.sentence for each in self.removed]
        if self.left_alone:
            tasks = counted(self.left_alone, "task")
            lines.append(f"{tasks} left alone: sent with another config (strict_config)")
        return lines


NOTHING_LEFT = Leftovers()


def left_alone_by(workers: Iterable[WorkerSeen]) -> int:
    """Count the tasks that these workers do not run, because they were sent with another config."""
    return len({it for each in workers for it in Heartbeat.decode(each.report).left_alone})


def _keeps_back(spending: Spending, depths: Iterable[QueueDepth]) -> bool:
    """Whether tasks of these queues are left because of this budget."""
    if spending.kind == "run":
        return any(depth.parked for depth in depths)
    open_ = [depth for depth in depths if depth.collection == spending.name]
    return any((depth.waiting or 0) + (depth.delayed or 0) for depth in open_)


def _full(policies: Iterable[PolicyState]) -> list[PolicyState]:
    return [it for it in policies if it.room is not None and it.room <= 0]
