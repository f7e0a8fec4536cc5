"""Stages: what a view shows of each stage that a task passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.monitoring import numbers

if TYPE_CHECKING:
    from agentpipe.monitoring.history import Rates, Snapshot


@dataclass(frozen=True, slots=True)
class StageFigure:
    """The figure of one stage.

    Attributes:
        limit: The most that ``figure`` can be; empty without a limit.
        below: Its rate, or what else there is to know; empty for nothing.
    """

    name: str
    figure: str
    below: str
    limit: str = ""

    def shown(self, divider: str) -> str:
        """The figure, with its limit after ``divider``."""
        return f"{self.figure}{divider}{self.limit}" if self.limit else self.figure


def stages_of(now: Snapshot, rates: Rates) -> list[StageFigure]:
    """All stages, in the order in which a task passes them."""
    stats = now.stats
    slots = sum(worker.slots for worker in stats.workers)
    delayed = f"{numbers.count(stats.delayed)} delayed" if stats.delayed else ""
    lag = f"lag {numbers.duration(now.sink_lag_s)}" if stats.outbox else ""
    running, limit = numbers.count(stats.running), numbers.count(slots)
    return [
        StageFigure("sent", numbers.count(stats.accepted), _rate(rates.sent)),
        StageFigure("waiting", numbers.count(stats.waiting), delayed),
        StageFigure("running", running, _rate(rates.ended), limit),
        StageFigure("outbox", numbers.count(stats.outbox), lag),
        StageFigure("delivered", numbers.count(stats.delivered), _rate(rates.delivered)),
    ]


def _rate(per_s: float | None) -> str:
    return "" if per_s is None else numbers.rate(per_s)
