"""Figures: histograms of the rewards, durations and costs of a run's samples. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.monitoring import numbers
from agentpipe.web.charts import Caption, ceiling, histogram, short, stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.operations.judging.samples import Sample
    from agentpipe.web.charts import Chart

BINS = 20


def charts_of(samples: Sequence[Sample]) -> list[Chart]:
    """Histograms of rewards and durations, and of costs if there are any."""
    rewards = [each.reward for each in samples if each.reward is not None]
    took_s = [each.run_s for each in samples if each.run_s is not None]
    usd = [each.usage["usd"] for each in samples if "usd" in each.usage]
    found = [
        _histogram(rewards, 1.0, "rewards", lambda value: f"{value:.2f}"),
        _histogram(took_s, ceiling(max(took_s, default=0.0)), "run time", numbers.duration),
    ]
    if any(usd):
        found.append(_histogram(usd, ceiling(max(usd)), "cost of a sample", numbers.money))
    return found


def _histogram(
    values: Sequence[float], high: float, title: str, show: Callable[[float], str]
) -> Chart:
    columns, titles = histogram(values, BINS, 0.0, high, show)
    return stacked(
        columns,
        {"": "plain"},
        titles,
        Caption(
            title,
            f"{title} of {short(len(values))} samples, from {show(0.0)} to {show(high)}",
            show(0.0),
            show(high),
        ),
    )
