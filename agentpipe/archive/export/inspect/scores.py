"""Metrics of a log, computed from its samples as inspect_ai does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.archive.export.inspect.messages import Json


class Scores:
    """Aggregates scores: the mean over a sample's epochs, then mean and stderr over samples."""

    def __init__(self) -> None:
        # By score name and sample id: the sum and the count.
        self._sums: dict[str, dict[str, tuple[float, int]]] = {}
        self.samples = self.completed = 0
        self.usage: dict[str, Json] = {}

    def add(self, sample: Mapping[str, Any]) -> None:
        """Add the next sample."""
        self.samples += 1
        self.completed += "error" not in sample
        for model, usage in sample["model_usage"].items():
            self.usage[model] = _sum(self.usage.get(model, {}), usage)
        for name, score in (sample["scores"] or {}).items():
            sums = self._sums.setdefault(name, {})
            total, number = sums.get(sample["id"], (0.0, 0))
            sums[sample["id"]] = (total + float(score["value"]), number + 1)

    def scorers(self) -> list[Json]:
        """The scorers and their metrics, for the log's header."""
        metrics = [{"name": "mean"}, {"name": "stderr"}]
        return [{"name": name, "options": {}, "metrics": metrics} for name in self._sums]

    def results(self) -> Json:
        """The log's results."""
        return {
            "total_samples": self.samples,
            "completed_samples": self.completed,
            "scores": [self._result(name, sums) for name, sums in self._sums.items()],
        }

    def _result(self, name: str, sums: Mapping[str, tuple[float, int]]) -> Json:
        means = [total / number for total, number in sums.values()]
        metrics = {"mean": _mean(means), "stderr": _stderr(means)}
        return {
            "name": name,
            "scorer": name,
            "reducer": "mean",
            "scored_samples": len(means),
            "metrics": {key: {"name": key, "value": value} for key, value in metrics.items()},
        }


def _sum(total: Json, usage: Json) -> Json:
    """Sum two usages; a price is null if one of its parts is."""
    return {
        name: None if value is None else value + (total.get(name, 0) or 0)
        for name, value in usage.items()
        if name not in total or total[name] is not None
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr(values: list[float]) -> float:
    """The standard error for independent values; 0 for a single value."""
    if len(values) == 1:
        return 0.0
    mean = _mean(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1) / len(values))
