"""Ledger: what became of the tasks of a trial under faults. No I/O but the journal's file."""

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
    """A run that began, by its journal: ``at`` is a wall clock's."""

    task_id: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was accepted, and what the stream has of it.

    ``accepted = answered_once + len(lost) + len(twice)``.

    Attributes:
        lost: Accepted tasks without a result.
        twice: Tasks with more results than one, and results of no task that was sent.
        run_twice: How many tasks began more than once.
        outcomes: Results by outcome.
        recovered_s: From each fault that ended a run to the next run of its task, sorted.
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
        """None where no fault has ended a run."""
        return self.recovered_s[-1] if self.recovered_s else None

    @classmethod
    def of(
        cls,
        accepted: Collection[str],
        results: Sequence[tuple[str, str]],
        runs: Sequence[Run],
        struck: Mapping[int, float],
    ) -> Ledger:
        """The ledger of a trial that is over.

        Args:
            accepted: The ids of its tasks.
            results: Task id and outcome of each record of the stream.
            runs: Its journal.
            struck: When each process was struck, by its id.
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
    """All that it notes, in order."""
    return [Run(**orjson.loads(line)) for line in journal.read_bytes().splitlines()]


def recoveries_s(runs: Sequence[Run], struck: Mapping[int, float]) -> Iterator[float]:
    """From a fault to the next run of the same task, for each run that the fault ended."""
    by_task = defaultdict[str, list[Run]](list)
    for run in runs:
        by_task[run.task_id].append(run)
    for of_task in by_task.values():
        for ended, following in pairwise(of_task):
            if ended.pid in struck:
                yield following.at - max(struck[ended.pid], ended.at)
