"""Membership: a worker's registration in the store, from ``join`` to ``leave``."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import ComparesClaims
from agentpipe.core.text import counted
from agentpipe.worker.claims.comparison import lost_by_comparison

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Worker
    from agentpipe.worker.claims.draining import Draining
    from agentpipe.worker.claims.held import HeldClaims
    from agentpipe.worker.outbox.forwarder import Forwarder
    from agentpipe.worker.running.message import ClaimedMessage

log = logging.getLogger(__name__)


class WorkerMembership:
    """Joins, renews the lease and leaves; thread-safe after ``begin``.

    Args:
        store: Where the worker is registered.
        held: What it has claimed.
        draining: Checked at each heartbeat for a drain mark.
        forwarder: Knows which results are in transit, for the comparison with the store.
        may_join: Whether the worker still claims; called while no other thread leaves.

    Attributes:
        worker: The worker as it joins, with all its queues.
        is_joined: Whether the store knows it, and it has a lease.
        renewed_at: When the store last confirmed the lease, on the monotonic clock; None without a
            lease.
    """

    worker: Worker

    def __init__(
        self,
        store: Store,
        held: HeldClaims,
        draining: Draining,
        forwarder: Forwarder,
        may_join: Callable[[], bool],
    ) -> None:
        self._store, self._held, self._forwarder = store, held, forwarder
        self._draining, self._may_join = draining, may_join
        self._comparing = store if isinstance(store, ComparesClaims) else None
        self._late_queues: set[str] = set()
        self.is_joined = False
        self.renewed_at: float | None = None
        # A heartbeat racing with ``leave`` would see a lost lease and rejoin.
        self._lock = threading.RLock()

    def begin(self, worker: Worker, interrupt: Callable[[list[ClaimedMessage]], None]) -> None:
        """Set the worker; ``interrupt`` ends runs of lost tasks."""
        self.worker, self._interrupt = worker, interrupt

    def add(self, queue: str) -> None:
        """Also join with this queue, at the next ``ensure``."""
        self._late_queues.add(queue)

    @property
    def is_complete(self) -> bool:
        """Whether the store knows all queues of this worker."""
        return not self._late_queues

    @property
    def is_in_doubt(self) -> bool:
        """Whether the store could have been away and have lost state that this worker holds."""
        return self._comparing is not None and self._comparing.in_doubt

    def ensure(self) -> None:
        """Join if not yet joined, also for queues that were added later.

        Raises:
            Unreachable: The store does not answer.
        """
        with self._lock:
            if not self.is_joined and self._may_join():
                self._store.join(self.worker)
                self.is_joined, self.renewed_at = True, time.monotonic()
        if self.is_joined:
            self._draining.look_at_start(self.worker)
        self._join_for_late_queues()

    def _join_for_late_queues(self) -> None:
        """Rejoin with late queues; if a rejoin drops held claims, only once nothing is held."""
        late = frozenset(self._late_queues - self.worker.queues)
        held = len(self._held) and self._store.joins_with_nothing
        if late and self.is_joined and not held:
            with self._lock:
                self.worker = replace(self.worker, queues=self.worker.queues | late)
                self._store.join(self.worker)
        self._late_queues -= self.worker.queues

    def heartbeat(self, report: bytes | None = None, *, whole: bool = True) -> bool:
        """Renew the lease; if it was lost, interrupt all runs here and join again.

        Nothing is claimed until these runs have ended: a new claim could be of a task that still
        runs here.
        A ``whole`` heartbeat also compares held claims.

        Returns:
            Whether the worker has joined and so has a lease.

        Raises:
            Unreachable: The store does not answer.
        """
        with self._lock:
            if self.is_joined and self._renew(report) and whole:
                self._compare()
            if self.is_joined:
                self._draining.look(self.worker)
            return self.is_joined

    def _renew(self, report: bytes | None) -> bool:
        """Return whether the lease held until now; the worker has a lease afterwards."""
        holds = self._store.heartbeat(self.worker, report)
        if not holds:
            log.warning("the lease was lost: the tasks went to other workers")
            with self._held.claiming:  # Claims made under the new lease must see what was lost.
                self._lose(self._held.all())
                self._store.join(self.worker)
        self.renewed_at = time.monotonic()
        return holds

    def _compare(self) -> None:
        """Compare held claims with the store; end the runs that are lost."""
        store, held, forwarder = self._comparing, self._held, self._forwarder
        if store and (lost := lost_by_comparison(store, self.worker, held, forwarder)):
            self._lose(lost)

    def _lose(self, messages: list[ClaimedMessage]) -> None:
        """End the runs of tasks that no longer belong to this worker."""
        self._held.lose(messages)
        self._interrupt(messages)

    def leave(self) -> None:
        """Release all held claims, uncounted; later calls do nothing.

        Raises:
            Unreachable: The store does not answer; the worker is still registered.
        """
        with self._lock:
            if self.is_joined:
                back = self._store.leave(self.worker)
                self.is_joined, self.renewed_at = False, None
                log.info(
                    "worker %s leaves and releases %s", self.worker.name, counted(back, "task")
                )
