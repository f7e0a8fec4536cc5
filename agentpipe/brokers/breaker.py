"""Breaker: pauses a collection whose runs fail the same way again and again.

Only a collection's failures count, in the order in which they are settled. What ends otherwise than
``ok`` and without a failure (cancelled, over a limit, put back) neither counts nor interrupts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS

if TYPE_CHECKING:
    from agentpipe.brokers.records import Settlement


@dataclass(frozen=True, slots=True)
class Tripped:
    """A collection that a settlement has paused, and why."""

    collection: str
    reason: str


@dataclass(frozen=True, slots=True)
class Streak:
    """Runs of a collection in a row that failed the same way.

    Attributes:
        digest: Of that failure; empty without one.
        failures: How many.
    """

    digest: str = ""
    failures: int = 0

    def after(self, digest: str) -> Streak:
        """What it is after one run more, whose digest is empty where it was ``ok``."""
        if not digest:
            return Streak()
        return Streak(digest, self.failures + 1 if digest == self.digest else 1)


def is_success(settlement: Settlement) -> bool:
    """Whether it ends a row of failures."""
    return settlement.action == "complete" and settlement.outcome == "ok"


def matters(settlement: Settlement) -> bool:
    """Whether it can change a streak at all."""
    return settlement.failure is not None or is_success(settlement)


def digest_of(settlement: Settlement) -> str:
    """Of its failure; empty without one."""
    return settlement.failure.digest if settlement.failure else ""


def reason_of(settlement: Settlement) -> str:
    """Why this failure, the last of its row, pauses its collection."""
    if settlement.failure is None:
        return ""
    failure = settlement.reason[:MAX_LAST_ERROR_CHARS]
    return f"{settlement.failure.limit} runs in a row failed the same way: {failure}"


def remedy(collection: str) -> str:
    """What to do about a collection that is paused for its failures."""
    return (
        f"mend the cause, then `agentpipe resume {collection}`; "
        f"`agentpipe dead replay --collection {collection}` runs its dead letters again"
    )
