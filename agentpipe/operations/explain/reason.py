"""Where a task is and why, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.core.timestamps import utc

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal[
    "open",
    "waiting",
    "delayed",
    "running",
    "outbox",
    "dead",
    "settled",
    "undeliverable",
    "delivered",
    "unknown",
]
Reason = Literal[
    "agent_paused",
    "collection_paused",
    "budget_spent",
    "policy_ahead",
    "no_worker",
    "outbox_full",
    "agent_held",
    "gate_full",
    "agent_busy",
    "slots_full",
    "behind",
    "next",
    "retry",
    "delay",
    "other_config",
    "running",
    "policy_paused",
    "worker_gone",
    "ending",
    "not_forwarded",
    "dead",
    "settled",
    "undeliverable",
    "delivered",
    "unknown",
    "unsure",
]


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason and its sentence.

    Attributes:
        next: What happens next, or what to do.
        since: Unix seconds; since when, if known.
    """

    reason: Reason
    sentence: str
    next: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a task is and why.

    Attributes:
        sentence: The reason in words.
        since: Unix seconds; since when, if known.
        next: What happens next, or what to do.
        details: The facts, with the same keys in every state.
    """

    task_id: str
    state: State
    reason: Reason
    sentence: str
    next: str
    since: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe why``."""
        record = asdict(self)
        details = record.pop("details")
        return {**record, "since": self.since and utc(self.since), **details}
