"""Samples: what counts in a set of results, which is the last attempt of each sample.

A retry or a replay is a separate task with its own Result. It stands for the same sample as the
task that it retries, so only the last attempt counts; the cost of all attempts is added up.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from agentpipe.core import attempts
from agentpipe.core.run_names import without_run
from agentpipe.core.timestamps import seconds_of
from agentpipe.core.usage import MAX_NUMBER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from agentpipe.core.result import Result

# JSON's number types; a subclass such as bool does not count as a number here.
_NUMBERS = frozenset({int, float})


class Sample(NamedTuple):  # Made a million times: a frozen dataclass takes four times as long.
    """What judging needs of one Result, without its answer and trace, which can be large.

    Attributes:
        group: The task that this is a sample of; a task in no group is its own group.
        key: Its value of the field by which a report is divided.
        usage: Numbers only, summed over its attempts and their runs.
        started: Unix seconds, like ``finished``; None if unknown.
        parent: The task that it retries; None for a first attempt.
        asked: A hash of the question, valid in this process; None if the question is truncated
            or not requested.
        need: How many samples its group needs if the broker counted it; else 0.
    """

    task_id: str
    run: str | None
    group: str
    key: str
    outcome: str
    reward: float | None
    usage: Mapping[str, float]
    started: float | None
    finished: float | None
    config_hash: str | None
    parent: str | None
    is_retry: bool
    is_replay: bool
    is_rescored: bool
    asked: int | None = None
    need: int = 0

    @classmethod
    def of(cls, result: Result, key: str = "", *, questions: bool = False) -> Sample:
        """The sample in a Result; with ``questions`` it includes the question's hash."""
        return cls(
            result.task_id,
            result.run,
            result.group_id or result.task_id,
            key,
            result.outcome,
            _within(result.reward, 1),
            _numbers(result.paid),
            seconds_of(result.started_at),
            result.finished,
            result.config_hash,
            result.parent,
            result.retry_of is not None,
            result.replay_of is not None,
            result.rescored_of is not None,
            _asked(result) if questions else None,
            result.group_need or 0,
        )

    @property
    def task(self) -> str:
        """The task that it is a sample of, by its name without the run's prefix."""
        return without_run(self.group, self.run)

    @property
    def run_s(self) -> float | None:
        """Duration of its run in seconds; None if unknown."""
        if self.started is None or self.finished is None:
            return None
        return self.finished - self.started


def _asked(result: Result) -> int | None:
    question = (result.task or {}).get("question")
    if not isinstance(question, str) or "task" in (result.truncated or {}).get("fields", ()):
        return None
    return hash(question)


def samples_of(
    results: Iterable[Result],
    key: Callable[[Result], str] | None = None,
    *,
    questions: bool = False,
) -> list[Sample]:
    """The last attempt of each sample, in no particular order."""
    found = [Sample.of(it, key(it) if key else "", questions=questions) for it in results]
    return last_attempts(found)


def last_attempts(samples: Sequence[Sample]) -> list[Sample]:
    """For each sample the attempt that finished last, with the usage of all attempts."""
    tried_again, counted = attempts.families(samples)
    return [*counted, *(_as_one(first, family) for first, family in tried_again.items())]


def families(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """All attempts of each sample, the one that counts last, by the first attempt's id."""
    tried_again, alone = attempts.families(samples)
    return {each.task_id: [each] for each in alone} | tried_again


def _as_one(first: str, family: Sequence[Sample]) -> Sample:
    last = family[-1]
    group = first if last.group == last.task_id else last.group
    return last._replace(group=group, usage=total_usage(each.usage for each in family))


def total_usage(usages: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    """The sums by name."""
    total = defaultdict[str, float](float)
    for usage in usages:
        for name, number in usage.items():
            total[name] += number
    return total


def by_task(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each task, in order."""
    found = defaultdict[str, list[Sample]](list)
    for each in samples:
        found[each.task].append(each)
    return found


def rewards_by_task(samples: Iterable[Sample]) -> dict[str, list[float | None]]:
    """The rewards of each task's samples; None for a missing reward."""
    return {task: [it.reward for it in found] for task, found in by_task(samples).items()}


def _numbers(usage: Mapping[str, Any]) -> Mapping[str, float]:
    """Only the valid numbers; returns the same object if all are valid, as nearly always."""
    for value in usage.values():
        if type(value) not in _NUMBERS or not 0 <= value <= MAX_NUMBER:
            known = ((name, _within(it, MAX_NUMBER)) for name, it in usage.items())
            return {name: it for name, it in known if it is not None}
    return usage


def _within(value: Any, most: int) -> float | None:
    """The value if it is a number in range, else None: an odd one would spoil a run's totals."""
    return value if type(value) in _NUMBERS and 0 <= value <= most else None


def without_rescored(results: Iterable[Result], left_out: list[str]) -> Iterator[Result]:
    """Skip rescored results, which count only in their own run; adds that run to ``left_out``."""
    for each in results:
        if each.rescored_of is None:
            yield each
        else:
            left_out.append(each.run or "")
