"""What stops workers from claiming: pauses, breakers and budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.breaker import Tripped
    from agentpipe.core.budgets import Budget, Holder, Spending


@runtime_checkable
class PausesQueues(Protocol):
    """Pauses queues: workers stop claiming from them."""

    def pause(
        self,
        *,
        queues: Sequence[str] = (),
        collections: Sequence[str] = (),
        paused: bool,
        reason: str = "",
    ) -> None:
        """Stop claims from these queues and collections, or resume them; running tasks continue.

        A collection's pause also covers queues that join it later. A queue yields no claims while
        it or its collection is paused. Pauses outlive all workers. ``reason`` is stored with the
        pause; pausing again without a reason keeps the stored one.
        """


@runtime_checkable
class BreaksOnFailures(Protocol):
    """Pauses a collection whose runs keep failing in the same way.

    ``Settlement.failure`` says what counts as the same failure and sets the limit. The pause has a
    reason and is resumed like any other; resuming resets the count.
    """

    def take_tripped(self) -> list[Tripped]:
        """Return the pauses that this process's settlements caused since the last call."""


@runtime_checkable
class KeepsBudgets(Protocol):
    """Stops claims for collections and named runs that have spent their budget.

    ``settle`` adds ``usd`` and ``tokens`` atomically with the settlement. Once a cap is reached, no
    worker claims from the collection's queues, or claims tasks of the run; running tasks continue.
    A task belongs to the run that its id names (``run_of``).

    ``Queue.budget`` takes effect only when it differs from the previously declared one, so a
    repeated declaration keeps a budget that was set since. Costs count from the first budget on.
    """

    def set_budget(self, kind: Holder, name: str, budget: Budget) -> None:
        """Replace the caps of a collection or run."""

    def spendings(self) -> Sequence[Spending]:
        """Return all budgets, each with the amount spent."""
