"""How workers end, and how a worker and its store stay consistent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.records import Claim, ClaimRequest, Settlement, Worker
    from agentpipe.core.delivered import Delivered

# How long a drain is remembered: longer than any process takes to start.
DRAIN_NOTED_S = 86_400.0


@runtime_checkable
class DrainsWorkers(Protocol):
    """Drains workers: they finish their runs, claim nothing new, and exit.

    A drain mark applies to one process: it ends when the worker leaves or its lease expires.
    ``WorkerSeen.draining`` shows which workers are marked.
    """

    def drain(self, workers: Collection[str]) -> None:
        """Mark those of these workers that are alive. Idempotent."""

    def is_draining(self, worker: Worker) -> bool:
        """Whether the worker is marked; its own process checks with each heartbeat."""


@runtime_checkable
class NotesDrains(Protocol):
    """Remembers drains of a host or of the whole broker, for workers that are still starting.

    A starting worker is not registered yet, so ``drain`` cannot mark it.
    """

    def note_drain(self, host: str | None) -> None:
        """Record a drain of all workers of this host, or of the broker if None."""

    def last_drain(self, host: str) -> int:
        """Return a number that rises with each drain of this host or of the broker.

        It is 0 before the first drain, and again ``DRAIN_NOTED_S`` after the last.
        """


@runtime_checkable
class BuriesWorkers(Protocol):
    """Ends a dead worker before its lease expires, for stores that would notice only then."""

    def bury(self, worker: Worker, begun: Sequence[str]) -> None:
        """Treat the worker's lease as expired, because its process has died.

        Only the tasks in ``begun``, whose runs had started, count a crash.
        """


@runtime_checkable
class SparesTasks(Protocol):
    """Learns which tasks did not crash a worker, for stores that see only redeliveries."""

    def spare(self, spared: Sequence[Delivered], blamed: Sequence[Delivered]) -> None:
        """Count a crash for ``blamed`` and none for ``spared``, all deliveries of one worker.

        The worker is about to be stopped, or was just killed. The call affects only these
        deliveries, however late it is, and not later deliveries of the same tasks. Once the worker
        is dead, ``leave`` follows in its name. In other stores another process settles the claims
        of a dead worker.
        """


class NotesAhead(Protocol):
    """Records which tasks are prefetched by a worker; its watcher reads that once it is dead."""

    def lay(self, delivered: Delivered) -> int:
        """Record a delivered task; returns the position of the note."""

    def let_go(self, place: int) -> None:
        """Clear the note: the task was requeued or settled."""


@runtime_checkable
class DeliversAhead(Protocol):
    """Prefetches: delivers tasks to a worker before it claims them."""

    def note_ahead(self, notes: NotesAhead) -> None:
        """Record deliveries in ``notes`` from now on. Only one worker can join this store."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between a store and a worker.

    Attributes:
        lost: Claims that the store does not know: their tasks are settled, claimed by another
            worker, or waiting.
        returned: Number of tasks requeued, without counting a crash, because the worker does not
            hold them.
        freed: Number of results returned to the outbox because the worker does not forward them.
    """

    lost: frozenset[tuple[str, int]] = frozenset()
    returned: int = 0
    freed: int = 0


@runtime_checkable
class SettlesAndClaims(Protocol):
    """Settles and claims in one call, which is cheaper than two."""

    def settle_and_claim(
        self, settlements: Sequence[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None]:
        """Run ``settle``, then ``claim``; in one transaction if both run.

        ``request.held`` excludes the claims that these settlements end.

        Returns:
            The result of ``settle``, and the claims; None if the store did not try to claim: call
            ``claim``.

        Raises:
            Unreachable: Either can have happened: call ``settle``, this, or ``claim`` again.
            Exception: A settlement is refused; nothing happened.
        """


@runtime_checkable
class SettlesMeanwhile(Protocol):
    """Settles in the background while the worker continues, for stores on a server."""

    def settle_meanwhile(
        self, settlements: Sequence[Settlement], request: ClaimRequest | None
    ) -> tuple[Future[list[bool]], list[Claim] | None] | None:
        """Start to ``settle`` one worker's successful runs, and ``claim`` without waiting for it.

        ``request.held`` excludes the claims that these settlements end; None for no claim.

        Returns:
            A future with what ``settle`` returns or raises, and the claims, or None if the caller
            must call ``claim``. The future's callbacks run on a thread of the store, so they must
            not block. Instead of the pair, None if nothing was done: call ``settle``.
        """


@runtime_checkable
class AwaitsClaims(Protocol):
    """Keeps the claims of a lost connection, and finds their tasks again one by one.

    Attributes:
        awaited: The keys of claims whose tasks are not found yet: ``settle`` raises ``Unreachable``
            for these, and settles the others. From any thread.
    """

    @property
    def awaited(self) -> frozenset[tuple[str, int]]: ...  # noqa: D102 - see the class


@runtime_checkable
class HandsOver(Protocol):
    """Settles successful runs once the sink has their Results, without storing these itself.

    ``take_outbox`` returns such Results too, and ``drop_outbox`` settles their tasks. A Result that
    the sink has not confirmed within moments is stored in the outbox, so a slow sink holds no task.
    """

    def hand_over(self, hurry: Callable[[], None]) -> None:
        """Begin; call ``hurry`` from any thread when there are such Results."""


@runtime_checkable
class ReturnsResults(Protocol):
    """Takes results back from a worker whose sink fails, so that others can deliver them."""

    def return_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        """End the loan of these results; those that the worker has not leased stay as they are."""


@runtime_checkable
class ComparesClaims(Protocol):
    """Reconciles what a worker holds with what the store believes that it holds.

    They differ after a store was restored to an earlier state, and after lost replies.

    Attributes:
        in_doubt: Whether the store may have been away since the last comparison. If True, compare
            before the next run starts.
    """

    @property
    def in_doubt(self) -> bool: ...  # noqa: D102 - see the class

    def compare(
        self,
        worker: Worker,
        held: Collection[tuple[str, int]],
        forwarding: Collection[int] | None,
    ) -> Comparison:
        """Requeue what the store believes the worker holds but the worker does not.

        Does nothing if the worker has no lease. The worker must not have a ``claim`` or
        ``take_outbox`` in progress.

        Args:
            worker: The worker to compare with.
            held: The keys of all claims that the worker has not settled.
            forwarding: The numbers of the results that it has taken and not dropped; None if
                unknown.
        """
