"""Store: the seam between agentpipe and what keeps its tasks.

A store never looks into a payload. Each operation is one atomic step, takes many ids, and may be
called from any thread. A store that cannot be reached raises ``Unreachable``.

This is the core, all that tasks need to be sent, run and delivered. What operators need beside it
is optional: see ``capabilities``.
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
    """Keeps tasks, and their results until the sink has them. Inherit for the defaults.

    Attributes:
        joins_with_nothing: Whether a worker that joins again loses what it holds; otherwise only
            the queues that it serves change.
        away_for_all: Whether it is away for all workers when it is for one, and begins their leases
            anew when it is back: then their runs go on meanwhile. Else a worker that cannot reach
            it ends its runs when its lease is over, since others may have its tasks.
        waits_for_disk: Whether ``sync`` waits: the worker's next runs begin meanwhile.
    """

    joins_with_nothing: bool = False
    away_for_all: bool = False
    waits_for_disk: bool = False

    def declare(self, queues: Sequence[Queue]) -> None:
        """Declare queues with their limits; a collection's round-robin group becomes these.

        A queue that left its group keeps its tasks and gets no new ones from it.

        Where queues have a ``source``, a sender with an older file than that of the group changes
        nothing of the group: it is only kept who the sender was. A worker's file always holds.
        """

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        """Admit tasks to the queue ``target``, or round-robin to the collection of that name.

        An id that is alive, or was settled within the retention time, is a ``duplicate``. Queues
        at their bound are skipped; where all are, the offer is ``refused``.
        """

    def join(self, worker: Worker) -> None:
        """Register a worker; its lease starts now."""

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        """Renew the worker's lease; False when it had lapsed and its tasks went to others.

        ``report`` is shown as ``WorkerSeen.report``; None keeps the last one.
        """

    def leave(self, worker: Worker) -> int:
        """Remove the worker and release what it holds, uncounted. Returns how many tasks."""

    def claim(self, request: ClaimRequest) -> list[Claim]:
        """Lease tasks of the worker's queues to it.

        A queue in cooldown, or paused, gives nothing. A queue has at most ``concurrency`` claims,
        a concurrency group at most its limit; the queue that was served longest ago comes first.

        Also returns tasks of lapsed workers to their queues, with one more crash, and wakes
        delayed tasks. A task that one more crash would kill is claimed only by a worker that holds
        no other such task: of those that ran beside the one that kills its worker, none dies. With
        a limit of one crash, the crash of a worker with several tasks counts for none of these:
        each is claimed again alone, and its worker claims nothing beside it. A store may leave that
        out.
        """

    def wait(self, timeout_s: float) -> None:
        """Return when a claim may have become possible, or a running task was cancelled.

        May return early. One thread at a time. The default polls.
        """
        time.sleep(min(timeout_s, POLL_S))

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Carry them out; False, and nothing done, for each whose claim was lost.

        They survive the death of any process at once, and a power loss after ``sync``.
        """

    def sync(self) -> None:
        """Return once what was settled is as durable as the store's URL promises.

        By default it is after ``settle``.
        """
        return

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        """Lend the oldest results to the worker until it drops them or its lease ends."""

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        """Remove results that the sink has confirmed; they count as delivered."""

    def stats(self) -> Stats:
        """One consistent snapshot."""

    def close(self) -> None:
        """Release files and connections. The caller that opened the store closes it."""
