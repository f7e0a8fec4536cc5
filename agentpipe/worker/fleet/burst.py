"""BurstProgress: whether a burst is over, and what it leaves behind."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agentpipe.brokers.breaker import remedy
from agentpipe.brokers.removed import removed_agents
from agentpipe.brokers.statistics import is_done
from agentpipe.core.budgets import budget_line
from agentpipe.core.text import counted
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.removed import RemovedAgents
    from agentpipe.brokers.statistics import Stats
    from agentpipe.core.budgets import Spending
    from agentpipe.core.policy import PolicyState

# Without a ledger, a store must look done for this long.
SURE_AFTER_S = 0.5
BAR_WIDTH = 30

log = logging.getLogger(__name__)


class BurstProgress:
    """Checks whether everything is done, and reports progress.

    ``show`` gets a line at each check. Without it, lines are logged: often at first, later rarely.
    """

    def __init__(
        self,
        store: Store,
        queues: frozenset[str],
        collections: frozenset[str],
        show: Callable[[str], None] | None = None,
    ) -> None:
        self._store, self._queues, self._collections = store, queues, collections
        self._show, self._most_open = show, 1
        self._started = time.monotonic()
        self._log_at = self._started + 1.0
        self._done_at: float | None = None
        self._paused: dict[str, str] = {}
        self._removed: list[RemovedAgents] = []
        self._spent: list[Spending] = []
        self._ahead: list[PolicyState] = []
        self._left_alone = 0
        self._dead = self._undeliverable = 0

    def is_done(self) -> bool:
        """Whether nothing more can run here."""
        stats = self._store.stats()
        self._dead, self._undeliverable = stats.dead or 0, stats.undeliverable or 0
        now = time.monotonic()
        self._tell(stats, now)
        self._left_alone = len(_left_alone(stats))
        if not is_done(stats, self._queues, self._left_alone):
            self._done_at = None
            return False
        self._removed = removed_agents(stats, self._collections)
        self._done_at = self._done_at or now
        self._paused = {
            depth.collection or depth.queue: depth.pause_reason
            for depth in stats.queues
            if depth.queue in self._queues and depth.pause_reason and not depth.budget_spent
        }
        self._spent = [
            it for it in stats.spendings if it.is_spent and self._is_kept_from(stats, it)
        ]
        kept = any(depth.parked for depth in stats.queues if depth.queue in self._queues)
        full = (it for it in stats.policies if it.room is not None and it.room <= 0)
        self._ahead = list(full) if kept else []
        # Without a ledger, a task can be on its way back from a dead worker.
        return stats.accepted is not None or now - self._done_at >= SURE_AFTER_S

    def _is_kept_from(self, stats: Stats, spending: Spending) -> bool:
        """Whether tasks of these queues are left because of this budget."""
        mine = [depth for depth in stats.queues if depth.queue in self._queues]
        if spending.kind == "run":
            return any(depth.parked for depth in mine)
        open_ = [depth for depth in mine if depth.collection == spending.name]
        return any((depth.waiting or 0) + (depth.delayed or 0) for depth in open_)

    def _tell(self, stats: Stats, now: float) -> None:
        running = stats.running or 0
        to_go = (stats.waiting or 0) + (stats.delayed or 0) + running
        if self._show is not None:
            self._most_open = max(self._most_open, to_go)
            self._show(_bar(self._most_open - to_go, self._most_open, running))
        elif now >= self._log_at:
            self._log_at = now + max(1.0, (now - self._started) / 10)
            told = "" if stats.delivered is None else f", {stats.delivered} delivered"
            log.info("%s to go%s", counted(to_go, "task"), told)

    def say_dead(self) -> None:
        """Log how many tasks were given up, in this burst or before."""
        if self._dead:
            log.warning("%s now; see: agentpipe dead list", counted(self._dead, "dead letter"))
        if self._undeliverable:
            number = counted(self._undeliverable, "result")
            log.warning("the sink refuses %s; see: agentpipe dead list --undeliverable", number)

    def say_left(self) -> bool:
        """Log what is left and cannot run here; return whether anything is."""
        for name, reason in self._paused.items():
            log.error("nothing more runs: %s is paused: %s; %s", name, reason, remedy(name))
        for spending in self._spent:
            line = budget_line(spending)
            log.error("nothing more runs of %s %s: %s", spending.kind, spending.name, line)
        for state in self._ahead:
            text = "nothing more begins for policy %s until it has a version after %d"
            log.error(text, state.name, state.version)
        for each in self._removed:
            log.error("%s", each.sentence)
        if self._left_alone:
            tasks = counted(self._left_alone, "task")
            log.error("%s left alone: sent with another config (strict_config)", tasks)
        left = (self._paused, self._spent, self._ahead, self._removed, self._left_alone)
        return any(left)


def _bar(done: int, total: int, running: int) -> str:
    """Progress relative to the most tasks open at once; more can be sent meanwhile."""
    filled = BAR_WIDTH * done // total
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    return f"[{bar}] {done:,} of {total:,} tasks, {running:,} running"


def _left_alone(stats: Stats) -> set[str]:
    return {it for each in stats.workers for it in Heartbeat.decode(each.report).left_alone}
