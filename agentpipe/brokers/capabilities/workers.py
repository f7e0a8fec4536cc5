"""How workers end, and what a worker and its store agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.records import Claim, ClaimRequest, Settlement, Worker
    from agentpipe.core.delivered import Delivered

# So long is a drain remembered; a process starts faster than that.
DRAIN_NOTED_S = 86_400.0


@runtime_checkable
class DrainsWorkers(Protocol):
    """Has workers finish what they run, take nothing new, and end.

    A mark is of one process: it goes when the worker leaves, or its lease ends.
    ``WorkerSeen.draining`` says which are marked.
    """

    def drain(self, workers: Collection[str]) -> None:
        """Mark those of these workers that live; once more is the same."""

    def is_draining(self, worker: Worker) -> bool:
        """Whether it is marked; its own process asks, with each heartbeat."""


@runtime_checkable
class NotesDrains(Protocol):
    """Remembers drains of all workers, or of a host's, for those that are still starting.

    Such a worker is not known yet, so that no mark can reach it.
    """

    def note_drain(self, host: str | None) -> None:
        """All workers of this host are to end, or of the broker."""

    def last_drain(self, host: str) -> int:
        """A number that rises with each drain of this host or of the broker.

        It is 0 before the first one, and once the last is longer ago than ``DRAIN_NOTED_S``.
        """


@runtime_checkable
class BuriesWorkers(Protocol):
    """Ends a worker before its lease is over, where its death would show only then."""

    def bury(self, worker: Worker, begun: Sequence[str]) -> None:
        """The process of this worker has died: all is as if its lease were over.

        Only the tasks whose runs had ``begun`` count a crash.
        """


@runtime_checkable
class SparesTasks(Protocol):
    """Learns which tasks are not to blame, where the end of a worker shows only in deliveries."""

    def spare(self, spared: Sequence[Delivered], blamed: Sequence[Delivered]) -> None:
        """The worker that had all these is about to be ended, or was killed a moment ago.

        Count a crash for the tasks that are ``blamed``, and none for the others. It is said of
        these deliveries alone, however late: not of what becomes of the same tasks afterwards.
        Elsewhere another process settles the claims of a worker that is gone.
        """


class NotesAhead(Protocol):
    """Where it is noted which tasks lie with a worker; its watcher reads that once it is dead."""

    def lay(self, delivered: Delivered) -> int:
        """The task was delivered; returns the place of the note."""

    def let_go(self, place: int) -> None:
        """It has gone back, or is settled."""


@runtime_checkable
class DeliversAhead(Protocol):
    """Has tasks delivered to a worker before that claims them."""

    def note_ahead(self, notes: NotesAhead) -> None:
        """Note there what is delivered from now on; one worker joins."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where a store and a worker did not agree.

    Attributes:
        lost: Claims that the store does not know: their tasks are settled, another worker's, or
            wait.
        returned: Tasks that are back in their queues, uncounted, since the worker does not hold
            them.
        freed: Results that are back in the outbox, since the worker does not forward them.
    """

    lost: frozenset[tuple[str, int]] = frozenset()
    returned: int = 0
    freed: int = 0


@runtime_checkable
class SettlesAndClaims(Protocol):
    """Carries out settlements and makes the next claim in one step, which costs less than two."""

    def settle_and_claim(
        self, settlements: Sequence[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None]:
        """As ``settle`` and then ``claim``, and in one transaction where both are carried out.

        ``request`` counts what these settlements end as no longer held.

        Returns:
            What ``settle`` returns, and the claims; None where none were asked for: ``claim``.

        Raises:
            Unreachable: Either may be carried out: call ``settle``, this, or ``claim`` again.
            Exception: A settlement is refused, and nothing is done.
        """


@runtime_checkable
class SettlesMeanwhile(Protocol):
    """Carries out settlements while the worker goes on, where that takes the time of a server."""

    def settle_meanwhile(
        self, settlements: Sequence[Settlement], request: ClaimRequest | None
    ) -> tuple[Future[list[bool]], list[Claim] | None] | None:
        """Begin to ``settle`` results of good runs of one worker, and ``claim`` at once.

        ``request`` counts what these settlements end as no longer held; None for no claim.

        Returns:
            What ``settle`` returns or raises, once it would; its callbacks must not wait, as they
            run on a thread of the store's. And the claims; None where ``claim`` is to be called.
            None where nothing was done: call ``settle``.
        """


@runtime_checkable
class ComparesClaims(Protocol):
    """Finds out where a worker and the store differ about what the worker holds.

    They differ after a store came back as it was some time ago, and after answers that were lost.

    Attributes:
        in_doubt: The store may have been away since the last comparison: compare before the next
            run begins.
    """

    @property
    def in_doubt(self) -> bool: ...  # noqa: D102 - see the class

    def compare(
        self,
        worker: Worker,
        held: Collection[tuple[str, int]],
        forwarding: Collection[int] | None,
    ) -> Comparison:
        """Put back what the store believes the worker to hold, and the worker does not.

        Nothing happens where the worker has no lease. No claim and no ``take_outbox`` of the
        worker may be under way.

        Args:
            worker: Whose claims they are.
            held: The keys of all claims that the worker has not settled.
            forwarding: The numbers of the results that it has taken and not dropped; None where
                that is not known now.
        """
