"""Comparison: two runs side by side, the tasks with the largest difference first."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.operations.judging.comparing import Comparison, compare
from agentpipe.operations.judging.samples import by_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.operations.judging.samples import Sample
    from agentpipe.web.results import RunView

PAGE = 100


@dataclass(frozen=True, slots=True)
class TaskPair:
    """A task that both runs have.

    Attributes:
        first: The id of one of its samples in the first run.
        second: The id of one of its samples in the second run.
        a: The mean reward of its samples in the first run; None without a reward.
        b: The same in the second run.
    """

    task: str
    question: str
    first: str
    second: str
    outcome_a: str
    outcome_b: str
    a: float | None
    b: float | None

    @property
    def delta(self) -> float | None:
        """``b - a``: how much better the second run is; None if a reward is missing."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """The comparison that a page shows.

    Attributes:
        whole: The same numbers as in ``agentpipe compare``.
        pairs: One page of the tasks that both runs have.
    """

    whole: Comparison
    pairs: tuple[TaskPair, ...]
    page: int
    pages: int


class Comparisons:
    """Compares runs; caches the last comparison, which takes a second for thousands of tasks."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._last: tuple[RunView, RunView, Comparison, list[TaskPair]] | None = None

    def page(self, a: RunView, b: RunView, page: int) -> ComparedRuns:
        """The comparison with this page of its tasks, or the nearest page."""
        with self._mutex:
            last = self._last
            if last is None or last[0] is not a or last[1] is not b:
                pairs = sorted(_pairs(a, b), key=_by_difference)
                last = self._last = (a, b, compare(a.samples, b.samples), pairs)
        _, _, whole, pairs = last
        pages = max(1, math.ceil(len(pairs) / PAGE))
        page = max(0, min(page, pages - 1))
        shown = pairs[page * PAGE : (page + 1) * PAGE]
        return ComparedRuns(whole, tuple(shown), page, pages)


def _by_difference(pair: TaskPair) -> tuple[float, bool, str]:
    """Sort key: the largest difference first, then pairs with different outcomes."""
    delta = pair.delta
    size = -1.0 if delta is None else abs(delta)
    return -size, pair.outcome_a == pair.outcome_b, pair.task


def _pairs(a: RunView, b: RunView) -> list[TaskPair]:
    first, second = by_task(a.samples), by_task(b.samples)
    return [
        TaskPair(
            task,
            a.extracts[first[task][0].task_id].question,
            first[task][0].task_id,
            second[task][0].task_id,
            _outcome(first[task]),
            _outcome(second[task]),
            _mean(first[task]),
            _mean(second[task]),
        )
        for task in first.keys() & second.keys()
    ]


def _outcome(samples: Sequence[Sample]) -> str:
    """The first outcome that is not ``ok``, else ``ok``."""
    return next((each.outcome for each in samples if each.outcome != "ok"), "ok")


def _mean(samples: Sequence[Sample]) -> float | None:
    rewards = [each.reward for each in samples if each.reward is not None]
    return math.fsum(rewards) / len(rewards) if rewards else None
