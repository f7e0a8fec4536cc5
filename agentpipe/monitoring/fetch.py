"""Takes snapshots in a separate thread, so that a slow broker blocks nothing else."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import KeepsRuns
from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.monitoring.history import FleetHistory, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.brokers.statistics import Stats

# The share of a core that watching can cost. A snapshot costs the broker about as much as it costs
# this process, or REQUEST_S per request: measured with RabbitMQ and its workers under constant
# watching (it costs more after a rest, because each idle queue is woken). A costlier snapshot is
# followed by a longer rest. Network latency does not count.
MAX_SHARE = 0.009
REQUEST_S = 45e-6
MAX_REST_S = 9.5
JOIN_S = 0.5
# Runs are read less often, because each has its provenance beside its counts. If the broker does
# not count them, only their names can change.
RUNS_EVERY_S, NAMES_EVERY_S, MAX_RUNS_SHARE = 5.0, 60.0, 0.001


class Fetcher(threading.Thread):
    """Takes snapshots of the store; retries while the broker is unreachable.

    Args:
        on_change: Called in this thread after each snapshot.
        persists: Treat any error as an outage and reopen the store after it. For servers, which
            have no supervisor to restart them.

    Attributes:
        history: Replaced as a whole, never mutated.
        fatal_error: An error that a retry cannot fix; the thread has ended.
        drawing_s: Processor time spent drawing the last snapshot, if drawing counts as watching.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        interval_s: float,
        on_change: Callable[[], None],
        *,
        persists: bool = False,
    ) -> None:
        super().__init__(name="agentpipe-top-fetch", daemon=True)
        self.history = FleetHistory()
        self.fatal_error: AgentpipeError | None = None
        self._open_store, self._interval_s, self._on_change = open_store, interval_s, on_change
        self._persists = persists
        self._store: Store | None = None
        self._cost_s = self.drawing_s = 0.0
        self._runs: tuple[KeptRun, ...] = ()
        self._runs_at = float("-inf")
        self._stopping = False
        self._woken = threading.Event()

    def run(self) -> None:
        """Take snapshots until ``stop``."""
        while not self._stopping and self.fatal_error is None:
            self._woken.clear()
            began = time.monotonic()
            self._fetch()
            self._on_change()
            took_s = time.monotonic() - began
            rest_s = min(MAX_REST_S, (self._cost_s + self.drawing_s) / MAX_SHARE)
            self._woken.wait(max(self._interval_s, rest_s) - took_s)
        if self._store is not None:
            self._store.close()

    def _fetch(self) -> None:
        try:
            stats = self._stats()
            runs = self._seen_runs()
        except AgentpipeError as error:
            if not (self._persists or isinstance(error, Unreachable)):
                self.fatal_error = error
                return
            if self._persists:
                self._forget()
            self.history = self.history.failed(time.monotonic(), str(error))
        else:
            self.history = self.history.seen(Snapshot(time.monotonic(), stats, runs))

    def _forget(self) -> None:
        """Close the store, to reopen it next time."""
        if self._store is not None:
            self._store.close()
        self._store, self._runs, self._runs_at = None, (), float("-inf")

    def _stats(self) -> Stats:
        """Take a snapshot; the cost of the first is ignored because it includes connecting."""
        if self._store is None:
            self._store = self._open_store()
            return self._store.stats()
        began_s = time.process_time()
        stats = self._store.stats()
        self._cost_s = max(time.process_time() - began_s, stats.requests * REQUEST_S)
        return stats

    def _seen_runs(self) -> tuple[KeptRun, ...]:
        """The runs as last read; reads them again once it is time."""
        began, store = time.monotonic(), self._store
        assert store is not None
        if began >= self._runs_at and isinstance(store, KeepsRuns):
            began_s = time.process_time()
            self._runs = tuple(store.runs())
            counted = any(run.outcomes is not None for run in self._runs)
            rest_s = (time.process_time() - began_s) / MAX_RUNS_SHARE
            self._runs_at = began + max(RUNS_EVERY_S if counted else NAMES_EVERY_S, rest_s)
        return self._runs

    def refresh(self) -> None:
        """Take a snapshot now, to show the effect of a command."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread; waits at most ``JOIN_S`` for a snapshot under way."""
        self._stopping = True
        self._woken.set()
        self.join(JOIN_S)
