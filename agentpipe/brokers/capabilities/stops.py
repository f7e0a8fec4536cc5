"""What keeps workers from claims: pauses, breakers and budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.breaker import Tripped
    from agentpipe.core.budgets import Budget, Holder, Spending


@runtime_checkable
class PausesQueues(Protocol):
    """Keeps workers away from queues."""

    def pause(
        self,
        *,
        queues: Sequence[str] = (),
        collections: Sequence[str] = (),
        paused: bool,
        reason: str = "",
    ) -> None:
        """Stop claims from these, or allow them again; what runs goes on.

        A collection's pause covers the queues that it has and those that it gets later. A queue
        gives nothing while it or its collection is paused. Both survive all workers. ``reason`` is
        kept with the pause; one without keeps the reason of the pause that it repeats.
        """


@runtime_checkable
class BreaksOnFailures(Protocol):
    """Pauses a collection whose runs fail the same way again and again: its breaker.

    ``Settlement.failure`` says what counts, and how often. The pause has a reason, and is ended
    like any other; then the count begins anew.
    """

    def take_tripped(self) -> list[Tripped]:
        """The pauses that settlements of this process have caused since the last call."""


@runtime_checkable
class KeepsBudgets(Protocol):
    """Stops claims from what has spent its budget: collections, and named runs.

    ``settle`` adds ``usd`` and ``tokens`` of what it carries out, in the step that settles. From
    the step on that reaches a cap, no worker claims from a collection's queues, or tasks of the
    run; what runs goes on. A task is of the run that its id names (``run_of``).

    ``Queue.budget`` is declared: it holds from when it differs from what was declared before, so
    that one that was set meanwhile stays. Costs count from the first budget on.
    """

    def set_budget(self, kind: Holder, name: str, budget: Budget) -> None:
        """Give a collection or run these caps instead of those that it has."""

    def spendings(self) -> Sequence[Spending]:
        """All budgets, with what is spent of each."""
