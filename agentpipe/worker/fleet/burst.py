"""BurstProgress: how far a burst is, and whether it is over."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import is_done
from agentpipe.core.text import counted
from agentpipe.worker.fleet.leftovers import NOTHING_LEFT, Leftovers, left_alone_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import Stats

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
        self._left = NOTHING_LEFT
        self._dead = self._undeliverable = 0

    def is_done(self) -> bool:
        """Look at the store and report progress; return whether nothing more can run here."""
        stats, now = self._store.stats(), time.monotonic()
        self._dead, self._undeliverable = stats.dead or 0, stats.undeliverable or 0
        self._tell(stats, now)
        left_alone = left_alone_by(stats.workers)
        if not is_done(stats, self._queues, left_alone):
            self._left = replace(self._left, left_alone=left_alone)
            self._done_at = None
            return False
        self._left = Leftovers.of(stats, self._queues, self._collections)
        self._done_at = self._done_at or now
        # Without a ledger, a task can be on its way back from a dead worker.
        return stats.accepted is not None or now - self._done_at >= SURE_AFTER_S

    def _tell(self, stats: Stats, now: float) -> None:
        running = stats.running or 0
        to_go = (stats.waiting or 0) + (stats.delayed or 0) + running
        if self._show is not None:
            self._most_open = max(self._most_open, to_go)
            self._show(_bar(self._most_open - to_go, self._most_open, running))
        elif now >= self._log_at:
            self._log_at = now + max(1.0, (now - self._started) / 10)
            delivered = "" if stats.delivered is None else f", {stats.delivered} delivered"
            log.info("%s to go%s", counted(to_go, "task"), delivered)

    def say_dead(self) -> None:
        """Log how many tasks were given up, in this burst or before."""
        if self._dead:
            log.warning("%s now; see: agentpipe dead list", counted(self._dead, "dead letter"))
        if self._undeliverable:
            number = counted(self._undeliverable, "result")
            log.warning("the sink refuses %s; see: agentpipe dead list --undeliverable", number)

    def say_left(self) -> bool:
        """Log what is left and cannot run here; return whether anything is."""
        for line in self._left.lines:
            log.error("%s", line)
        return bool(self._left.lines)


def _bar(done: int, total: int, running: int) -> str:
    """Progress relative to the most tasks open at once; more can be sent meanwhile."""
    filled = BAR_WIDTH * done // total
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    return f"[{bar}] {done:,} of {total:,} tasks, {running:,} running"
