"""Store: the interface between agentpipe and the system that holds its tasks.

A store never parses a payload. Each operation is atomic, works on batches, and can be called from
any thread. A store that cannot be reached raises ``Unreachable``.

This is the core: everything needed to send tasks, run them and deliver their results. Features
for operators are optional: see ``capabilities``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import (
        Admission,
        Claim,
        ClaimRequest,
        Offer,
        OutboxRecord,
        Queue,
        Settlement,
        Worker,
    )
    from agentpipe.brokers.statistics import Stats

POLL_S = 0.02


class Store(Protocol):
    """Holds tasks, and their results until the sink confirms them. Inherit for the defaults.

    Attributes:
        joins_with_nothing: Whether a worker that rejoins loses its claims. If False, a rejoin only
            changes the queues that it serves.
        away_for_all: Whether an outage hits all workers at once, and the store restarts all leases
            when it returns. If True, runs continue during an outage. If False, a worker that cannot
            reach the store stops its runs when its lease expires, because other workers may have
            claimed its tasks.
        waits_for_disk: Whether ``sync`` blocks. If True, the worker starts its next runs meanwhile.
    """

    joins_with_nothing: bool = False
    away_for_all: bool = False
    waits_for_disk: bool = False

    def declare(self, queues: Sequence[Queue]) -> None:
        """Declare queues with their limits; they replace their collection's round-robin group.

        A queue that left its group keeps its tasks but gets no new ones through the group.

        If queues have a ``source``, a sender whose file is older than the group's does not change
        the group; the store only records the sender. A worker's file always takes effect.
        """

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        """Admit tasks to the queue ``target``, or round-robin to the collection of that name.

        An id that is unsettled, or was settled within the retention time, is a ``duplicate``.
        Queues at their bound are skipped; if all are full, the offer is ``refused``.
        """

    def join(self, worker: Worker) -> None:
        """Register a worker; its lease starts now."""

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        """Renew the worker's lease; False if it had expired and its tasks were released.

        ``report`` becomes ``WorkerSeen.report``; None keeps the last one.
        """

    def leave(self, worker: Worker) -> int:
        """Remove the worker and release its claims without counting a crash.

        Returns the number of released tasks.
        """

    def claim(self, request: ClaimRequest) -> list[Claim]:
        """Lease tasks from the worker's queues to it.

        A paused or cooling queue yields no claims. A queue has at most ``concurrency`` claims and a
        concurrency group at most its limit. The least recently served queue comes first.

        Also requeues tasks of workers whose lease expired, with one more crash, and wakes delayed
        tasks. A task one crash below its limit is claimed only by a worker that holds no other
        such task, so a task that kills its worker cannot exhaust the crashes of its neighbours.
        If the limit is one crash, the death of a worker with several tasks counts for none of them:
        each is claimed again alone, and its worker claims nothing else meanwhile. A store can omit
        this protection.
        """

    def wait(self, timeout_s: float) -> None:
        """Block until a claim may be possible, a running task is cancelled, or the timeout ends.

        Can return early. Only one thread at a time can call it. The default polls.
        """
        time.sleep(min(timeout_s, POLL_S))

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Apply settlements; returns False for each whose claim was lost, and skips it.

        On return they survive the death of any process. They survive a power loss after ``sync``.
        """

    def sync(self) -> None:
        """Block until settled tasks are as durable as the store's URL promises.

        The default does nothing: ``settle`` is already durable.
        """
        return

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        """Lease the oldest results to the worker until it drops them or its lease ends."""

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        """Remove results that the sink confirmed; they count as delivered."""

    def stats(self) -> Stats:
        """Return one consistent snapshot."""

    def close(self) -> None:
        """Release files and connections. The caller that opened the store closes it."""
