"""Sums up a stream of results."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.core.result import Result


@dataclass(frozen=True, slots=True)
class Report:
    """Totals of some results.

    Attributes:
        pass_rate: Mean reward of the results that have one; None without any.
        duration_s: From the start of the first run to the end of the last.
        per_s: Results per second of that time.
    """

    results: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    pass_rate: float | None = None
    rewarded: int = 0
    duration_s: float = 0.0
    per_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe report``."""
        return {name: getattr(self, name) for name in self.__slots__}


def summarize(results: Iterable[Result]) -> Report:
    """Read the results once, in constant memory."""
    outcomes: Counter[str] = Counter()
    rewarded, reward = 0, 0.0
    first, last = "", ""
    for result in results:
        outcomes[result.outcome] += 1
        if result.reward is not None:
            rewarded += 1
            reward += result.reward
        # ISO 8601 times of one format sort as strings.
        if result.started_at and (not first or result.started_at < first):
            first = result.started_at
        last = max(last, result.finished_at or "")
    duration_s = _seconds_between(first, last)
    total = outcomes.total()
    return Report(
        results=total,
        outcomes=dict(outcomes.most_common()),
        pass_rate=reward / rewarded if rewarded else None,
        rewarded=rewarded,
        duration_s=duration_s,
        per_s=total / duration_s if duration_s else 0.0,
    )


def _seconds_between(first: str, last: str) -> float:
    if not first or not last:
        return 0.0
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
