"""Ledger: what happened to the tasks of a chaos trial. It reads only the journal file."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """A started run from the journal; ``at`` is wall-clock time."""

    task_id: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """Which tasks were accepted, and which results the stream has.

    ``accepted = answered_once + len(lost) + len(twice)``.

    Attributes:
        lost: Accepted tasks without a result.
        twice: Tasks with more than one result, and results for tasks that were never sent.
        run_twice: Number of tasks that started more than once.
        outcomes: Number of results by outcome.
        recovered_s: Time from each fault that ended a run to the next run of its task, sorted.
    """

    accepted: int
    answered_once: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    run_twice: int = 0
    runs: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    recovered_s: tuple[float, ...] = ()

    @property
    def balances(self) -> bool:
        """Whether each accepted task has exactly one result."""
        return not self.lost and not self.twice

    @property
    def longest_recovery_s(self) -> float | None:
        """The longest recovery; None if no fault ended a run."""
        return self.recovered_s[-1] if self.recovered_s else None

    @classmethod
    def of(
        cls,
        accepted: Collection[str],
        results: Sequence[tuple[str, str]],
        runs: Sequence[Run],
        struck: Mapping[int, float],
    ) -> Ledger:
        """Build the ledger of a finished trial.

        Args:
            accepted: Ids of its tasks.
            results: Task id and outcome of each record of the stream.
            runs: The runs in its journal.
            struck: When each process was struck, by pid.
        """
        answers = Counter(task_id for task_id, _ in results)
        begun = Counter(run.task_id for run in runs)
        twice = {it for it, number in answers.items() if number > 1 or it not in accepted}
        return cls(
            len(accepted),
            sum(answers[task_id] == 1 for task_id in accepted),
            tuple(task_id for task_id in accepted if task_id not in answers),
            tuple(sorted(twice)),
            sum(number > 1 for number in begun.values()),
            len(runs),
            Counter(outcome for _, outcome in results),
            tuple(sorted(recoveries_s(runs, struck))),
        )


def runs_in(journal: Path) -> list[Run]:
    """Read all runs from the journal, in order."""
    return [Run(**orjson.loads(line)) for line in journal.read_bytes().splitlines()]


def recoveries_s(runs: Sequence[Run], struck: Mapping[int, float]) -> Iterator[float]:
    """Yield the time from a fault to the task's next run, for each run that the fault ended."""
    by_task = defaultdict[str, list[Run]](list)
    for run in runs:
        by_task[run.task_id].append(run)
    for of_task in by_task.values():
        for ended, following in pairwise(of_task):
            if ended.pid in struck:
                yield following.at - max(struck[ended.pid], ended.at)
