"""Hour: what the fleet did in the last hour, or since watching began."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from agentpipe.monitoring import numbers
from agentpipe.show.tones import tone_of
from agentpipe.web.charts import Caption, lined, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.statistics import Stats
    from agentpipe.web.charts import Chart

# Charts use the shortest span that contains all marks.
SPANS_S = (300.0, 900.0, 3_600.0)
MARK_S = 5.0
_COLUMNS = 60
_TONES = ("good", "fair", "bad", "faint")


@dataclass(frozen=True, slots=True)
class Mark:
    """The counters at one moment, on the monotonic clock; None where unknown."""

    at: float
    outcomes: Mapping[str, int]
    waiting: int | None
    running: int | None


class Hour:
    """Collects snapshots and draws them as charts."""

    def __init__(self) -> None:
        self._marks: tuple[Mark, ...] = ()

    def add(self, at: float, stats: Stats) -> None:
        """Add a mark; replace the last mark if it is less than ``MARK_S`` after the one before."""
        marks = self._marks
        if len(marks) > 1 and marks[-1].at - marks[-2].at < MARK_S:
            marks = marks[:-1]
        first = bisect_left(marks, at - SPANS_S[-1] * (1 + 1 / _COLUMNS), key=lambda mark: mark.at)
        mark = Mark(at, dict(stats.outcomes), stats.waiting, stats.running)
        self._marks = (*marks[first:], mark)

    def charts(self) -> list[Chart]:
        """Charts of outcomes, waiting tasks and running tasks over time."""
        marks = self._marks
        if not marks:
            return []
        watched_s = marks[-1].at - marks[0].at
        span_s = next((each for each in SPANS_S if watched_s < each), SPANS_S[-1])
        stages = (_stage(marks, "waiting", span_s), _stage(marks, "running", span_s))
        return [_outcomes(marks, span_s), *stages]


def _outcomes(marks: tuple[Mark, ...], span_s: float) -> Chart:
    columns = [dict[str, float]() for _ in range(_COLUMNS)]
    for before, after in pairwise(marks):
        column = columns[_place(marks, after.at, span_s)]
        for name, number in after.outcomes.items():
            # Counters drop when a store is emptied.
            if (gain := number - before.outcomes.get(name, 0)) > 0:
                column[name] = column.get(name, 0.0) + gain
    names = {name for column in columns for name in column}
    order = sorted(names, key=lambda name: (_TONES.index(tone_of(name)), name))
    total = sum(sum(column.values()) for column in columns)
    step = "minute" if span_s == SPANS_S[-1] else numbers.duration(span_s / _COLUMNS)
    what = f"tasks that ended, by outcome: {total:,.0f} in the last {numbers.duration(span_s)}"
    return stacked(
        columns,
        {name: tone_of(name) for name in order},
        [_ago(place, span_s) for place in range(_COLUMNS)],
        Caption(f"ended per {step}", what, f"{numbers.duration(span_s)} ago", "now"),
    )


def _stage(marks: tuple[Mark, ...], name: str, span_s: float) -> Chart:
    values: list[float | None] = [None] * _COLUMNS
    for mark in marks:
        values[_place(marks, mark.at, span_s)] = getattr(mark, name)
    last = getattr(marks[-1], name)
    known = "unknown" if last is None else f"{last:,}"
    span = numbers.duration(span_s)
    label = f"{name} tasks in the last {span}, now {known}"
    return lined(values, Caption(name, label, f"{span} ago", "now"))


def _place(marks: tuple[Mark, ...], at: float, span_s: float) -> int:
    return max(0, _COLUMNS - 1 - int((marks[-1].at - at) * _COLUMNS / span_s))


def _ago(place: int, span_s: float) -> str:
    columns = _COLUMNS - 1 - place
    return f"{numbers.duration(columns * span_s / _COLUMNS)} ago" if columns else "now"
