"""Breaker: pauses a collection whose runs keep failing in the same way.

Failures are counted per collection, in settlement order. A run that ends neither ``ok`` nor with a
failure (cancelled, over a limit, requeued) does not count and does not reset the count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS

if TYPE_CHECKING:
    from agentpipe.brokers.records import Settlement


@dataclass(frozen=True, slots=True)
class Tripped:
    """A collection that the breaker paused, and why."""

    collection: str
    reason: str


@dataclass(frozen=True, slots=True)
class Streak:
    """A collection's consecutive runs that failed in the same way.

    Attributes:
        digest: Identifies the failure; empty if there is none.
        failures: Number of failed runs.
    """

    digest: str = ""
    failures: int = 0

    def after(self, digest: str) -> Streak:
        """Return the streak after one more run; ``digest`` is empty if that run was ``ok``."""
        if not digest:
            return Streak()
        return Streak(digest, self.failures + 1 if digest == self.digest else 1)


def is_success(settlement: Settlement) -> bool:
    """Whether the settlement resets the streak."""
    return settlement.action == "complete" and settlement.outcome == "ok"


def matters(settlement: Settlement) -> bool:
    """Whether the settlement can change a streak."""
    return settlement.failure is not None or is_success(settlement)


def digest_of(settlement: Settlement) -> str:
    """Return the digest of the settlement's failure; empty if it has none."""
    return settlement.failure.digest if settlement.failure else ""


def reason_of(settlement: Settlement) -> str:
    """Return the reason for pausing the collection after this, the last failure of a streak."""
    if settlement.failure is None:
        return ""
    failure = settlement.reason[:MAX_LAST_ERROR_CHARS]
    return f"{settlement.failure.limit} runs in a row failed the same way: {failure}"


def remedy(collection: str) -> str:
    """Return what to do about a collection that the breaker paused."""
    return (
        f"mend the cause, then `agentpipe resume {collection}`; "
        f"`agentpipe dead replay --collection {collection}` runs its dead letters again"
    )
