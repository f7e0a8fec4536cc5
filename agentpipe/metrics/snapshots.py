"""Snapshots: shares the store's latest snapshot among scrapes, within a bounded time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.monitoring.fetch import MAX_REST_S, MAX_SHARE, REQUEST_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import Stats

# Prometheus gives a scrape 10 s; a broker that takes longer than this counts as unreachable.
ANSWER_S = 4.0


class SnapshotThread(threading.Thread):
    """Takes snapshots on demand; a costlier snapshot serves later scrapes for longer.

    Args:
        open_store: Opens the store, also again after it was unreachable.
        say: Called when the broker becomes unreachable and when it is back.
    """

    def __init__(self, open_store: Callable[[], Store], say: Callable[[str], None]) -> None:
        super().__init__(name="agentpipe-metrics", daemon=True)
        self._open_store, self._say = open_store, say
        self._store: Store | None = None
        self._stats: Stats | None = None
        self._error: AgentpipeError | None = None
        self._fresh_until = float("-inf")
        self._attempts = 0
        self._wanted = False
        self._changed = threading.Condition()

    def latest(self, patience_s: float = ANSWER_S) -> Stats | None:
        """A snapshot recent enough for its cost; None if the broker does not answer."""
        with self._changed:
            if time.monotonic() < self._fresh_until:
                return self._stats
            before, self._wanted = self._attempts, True
            self._changed.notify_all()
            answered = self._changed.wait_for(lambda: self._attempts != before, patience_s)
            return self._stats if answered else None

    def refuse_mistakes(self) -> None:
        """Raise an error that no retry can fix, such as a mistake in the broker's URL."""
        self.latest()
        if self._error is not None and not isinstance(self._error, Unreachable):
            raise self._error

    def run(self) -> None:
        """Take requested snapshots until the process ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                self._wanted = False
            self._take()

    def _take(self) -> None:
        stats, rest_s = None, 0.0
        error: AgentpipeError | None = None
        try:
            stats, rest_s = self._measured()
        except AgentpipeError as found:
            error = found
        except Exception as found:  # noqa: BLE001 - this thread serves all later scrapes
            error = AgentpipeError(f"a snapshot cannot be made: {type(found).__name__}")
        self._tell(error)
        with self._changed:
            self._stats, self._error = stats, error
            self._attempts += 1
            self._fresh_until = time.monotonic() + rest_s
            self._changed.notify_all()

    def _measured(self) -> tuple[Stats, float]:
        """A snapshot, and for how many seconds it stays fresh."""
        if self._store is None:
            self._store = self._open_store()
            return self._store.stats(), 0.0  # The cost of connecting occurs only once.
        began_s = time.process_time()
        stats = self._store.stats()
        cost_s = max(time.process_time() - began_s, stats.requests * REQUEST_S)
        return stats, min(MAX_REST_S, cost_s / MAX_SHARE)

    def _tell(self, error: AgentpipeError | None) -> None:
        if (error is None) == (self._error is None):
            return
        self._say("the broker answers again" if error is None else f"broker unreachable: {error}")
