"""Capabilities: optional features of a store, beyond the core.

Each is a separate protocol. A command that needs a missing one fails with an error (``require``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agentpipe.brokers.capabilities.keeping import (
    KeepsDeadLetters,
    KeepsLoops,
    KeepsPolicies,
    KeepsRuns,
    KeepsSchedules,
    KeepsUndeliverable,
)
from agentpipe.brokers.capabilities.sending import CountsGroups, OfferPace, PacesOffers
from agentpipe.brokers.capabilities.stops import (
    BreaksOnFailures,
    KeepsBudgets,
    PausesQueues,
)
from agentpipe.brokers.capabilities.tasks import (
    Answer,
    CancelsTasks,
    CancelsUnread,
    Fate,
    LocatesTasks,
    MovesTasks,
    ReadsTasks,
    TaskFilter,
    TaskQuery,
    TaskSeen,
)
from agentpipe.brokers.capabilities.workers import (
    DRAIN_NOTED_S,
    AwaitsClaims,
    BuriesWorkers,
    ComparesClaims,
    Comparison,
    DeliversAhead,
    DrainsWorkers,
    HandsOver,
    NotesAhead,
    NotesDrains,
    ReturnsResults,
    SettlesAndClaims,
    SettlesMeanwhile,
    SparesTasks,
)
from agentpipe.core.delivered import Delivered
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store

__all__ = [
    "DRAIN_NOTED_S",
    "Answer",
    "AwaitsClaims",
    "BreaksOnFailures",
    "BuriesWorkers",
    "CancelsTasks",
    "CancelsUnread",
    "ComparesClaims",
    "Comparison",
    "CountsGroups",
    "Delivered",
    "DeliversAhead",
    "DrainsWorkers",
    "Fate",
    "HandsOver",
    "KeepsBudgets",
    "KeepsDeadLetters",
    "KeepsLoops",
    "KeepsPolicies",
    "KeepsRuns",
    "KeepsSchedules",
    "KeepsUndeliverable",
    "LocatesTasks",
    "MovesTasks",
    "NotesAhead",
    "NotesDrains",
    "OfferPace",
    "PacesOffers",
    "PausesQueues",
    "ReadsTasks",
    "ReturnsResults",
    "SettlesAndClaims",
    "SettlesMeanwhile",
    "SparesTasks",
    "TaskFilter",
    "TaskQuery",
    "TaskSeen",
    "require",
]

C = TypeVar("C")


def require(store: Store, capability: type[C], action: str) -> C:
    """Return the store, typed as ``capability``.

    Raises:
        ConfigError: The store lacks the capability, so the broker cannot do ``action``.
    """
    if not isinstance(store, capability):
        raise ConfigError(f"this broker cannot {action}")
    return store
