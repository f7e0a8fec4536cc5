"""Hour: what the fleet did in the last hour, a mark for each few seconds."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from agentpipe.web.charts import Caption, lined, stacked
from agentpipe.web.pages import tone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.statistics import Stats
    from agentpipe.web.charts import Chart

SPAN_S, STEP_S = 3_600.0, 60.0
MARK_S = 10.0
_COLUMNS = int(SPAN_S / STEP_S)
_TONES = ("good", "fair", "bad", "faint")


@dataclass(frozen=True, slots=True)
class Mark:
    """The counters at one moment, on the monotonic clock; None where unknown."""

    at: float
    outcomes: Mapping[str, int]
    waiting: int | None
    running: int | None


class Hour:
    """Takes snapshots; draws them as charts."""

    def __init__(self) -> None:
        self._marks: tuple[Mark, ...] = ()

    def add(self, at: float, stats: Stats) -> None:
        """Keep the snapshot in place of the last mark, unless that is old enough to stay."""
        marks = self._marks
        if len(marks) > 1 and marks[-1].at - marks[-2].at < MARK_S:
            marks = marks[:-1]
        first = bisect_left(marks, at - SPAN_S - STEP_S, key=lambda mark: mark.at)
        mark = Mark(at, dict(stats.outcomes), stats.waiting, stats.running)
        self._marks = (*marks[first:], mark)

    def charts(self) -> list[Chart]:
        """Outcomes by minute, waiting and running tasks."""
        marks = self._marks
        if not marks:
            return []
        return [_outcomes(marks), _stage(marks, "waiting"), _stage(marks, "running")]


def _outcomes(marks: tuple[Mark, ...]) -> Chart:
    columns = [dict[str, float]() for _ in range(_COLUMNS)]
    for before, after in pairwise(marks):
        column = columns[_place(marks, after.at)]
        for name, number in after.outcomes.items():
            # Counters fall when a store is emptied.
            if (gain := number - before.outcomes.get(name, 0)) > 0:
                column[name] = column.get(name, 0.0) + gain
    names = {name for column in columns for name in column}
    order = sorted(names, key=lambda name: (_TONES.index(tone(name)), name))
    total = sum(sum(column.values()) for column in columns)
    return stacked(
        columns,
        {name: tone(name) for name in order},
        [_ago(place) for place in range(_COLUMNS)],
        Caption(
            "ended per minute",
            f"tasks that ended, by minute and outcome: {total:,.0f} in the last hour",
            "1 h ago",
            "now",
        ),
    )


def _stage(marks: tuple[Mark, ...], name: str) -> Chart:
    values: list[float | None] = [None] * _COLUMNS
    for mark in marks:
        values[_place(marks, mark.at)] = getattr(mark, name)
    last = getattr(marks[-1], name)
    known = "unknown" if last is None else f"{last:,}"
    label = f"{name} tasks in the last hour, now {known}"
    return lined(values, Caption(name, label, "1 h ago", "now"))


def _place(marks: tuple[Mark, ...], at: float) -> int:
    return max(0, _COLUMNS - 1 - int((marks[-1].at - at) / STEP_S))


def _ago(place: int) -> str:
    minutes = _COLUMNS - 1 - place
    return f"{minutes} min ago" if minutes else "this minute"
