"""Stores for tests: typed with every capability, and with an outbox that is never full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from agentpipe.brokers import open_store
from agentpipe.brokers.base import Store
from agentpipe.brokers.capabilities import (
    BreaksOnFailures,
    CancelsTasks,
    ComparesClaims,
    CountsGroups,
    DrainsWorkers,
    KeepsBudgets,
    KeepsDeadLetters,
    KeepsLoops,
    KeepsPolicies,
    KeepsRuns,
    KeepsSchedules,
    KeepsUndeliverable,
    LocatesTasks,
    MovesTasks,
    NotesDrains,
    PausesQueues,
    ReadsTasks,
    ReturnsResults,
)
from agentpipe.brokers.records import ClaimRequest, Settlement
from agentpipe.settings import OutboxLimits
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Claim, Worker
    from agentpipe.settings import Settings

PATIENCE_S = 30
ROOMY = OutboxLimits(10**9, 10**12)


class AnyStore(
    Store,
    ReadsTasks,
    BreaksOnFailures,
    CancelsTasks,
    ComparesClaims,
    CountsGroups,
    DrainsWorkers,
    KeepsBudgets,
    KeepsLoops,
    KeepsPolicies,
    PausesQueues,
    KeepsDeadLetters,
    LocatesTasks,
    MovesTasks,
    NotesDrains,
    KeepsRuns,
    KeepsSchedules,
    KeepsUndeliverable,
    ReturnsResults,
    Protocol,
):
    """The static type of every store in tests; a test must know which capabilities it uses."""


def open_any(settings: Settings) -> AnyStore:
    """Open the store that ``settings.broker`` names; the caller closes it."""
    return cast("AnyStore", open_store(settings))


def claim_up_to(limit: int, store: Store, worker: Worker, held: int | None = None) -> list[Claim]:
    """Claim tasks with outbox limits that are never reached."""
    return store.claim(ClaimRequest(worker, limit, ROOMY, held))


def claim_all(number: int, store: Store, worker: Worker) -> list[Claim]:
    """Claim ``number`` tasks, as soon as there are so many."""
    found: list[Claim] = []

    def there() -> bool:
        found.extend(claim_up_to(number - len(found), store, worker))
        return len(found) == number

    wait_until(there, PATIENCE_S, f"{number} claims")
    return found


def good(claims: Sequence[Claim], result: bytes = b"{}") -> list[Settlement]:
    """Settlements of runs that have ended well."""
    return [Settlement(claim, "complete", result, "ok") for claim in claims]


def can(store: object, capability: type) -> bool:
    """Whether the store has a capability that its static type here promises."""
    return isinstance(store, capability)
