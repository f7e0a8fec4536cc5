"""Compares two runs, paired by task, so that differences between tasks cancel out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.operations.judging.intervals import ROUNDING, Z, standard_error, t_quantile
from agentpipe.operations.judging.permutation import mcnemar, sign_flip
from agentpipe.operations.judging.report import report_of
from agentpipe.operations.judging.samples import rewards_by_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.operations.judging.report import Report
    from agentpipe.operations.judging.samples import Sample

ALPHA = 0.05
# The 0.8 quantile of the standard normal distribution, for a power of 80 %.
Z_POWER = 0.8416212335729143
NAMED = 10
Rewards = dict[str, list[float | None]]
# For each task, the rewards of its samples in both runs.
Pairs = list[tuple[list[float], list[float]]]


@dataclass(frozen=True, slots=True)
class McNemar:
    """Counts of tasks that pass in only one run, with the p-value of McNemar's test."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Tasks without a counterpart in the other run.

    Attributes:
        first: Up to ``NAMED`` of their names, in sorted order.
    """

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """How much better the second run is, over the tasks with a reward in both runs.

    Attributes:
        mean_a: The mean over tasks of each task's mean over its samples.
        delta: ``mean_b - mean_a``.
        se: The standard error of ``delta``; None with one task.
        low: Lower bound of the 95 % interval; None without an interval.
        method: ``t``, or ``bonett-price`` if each task has one sample that passes or fails.
        p: The p-value of the sign-flip test.
        exact: Whether all flips were enumerated; otherwise they were drawn.
        mcnemar: None unless each task has one sample, which passes or fails.
        detectable: The difference that such a comparison detects with a power of 80 %.
    """

    mean_a: float
    mean_b: float
    delta: float
    se: float | None
    low: float | None
    high: float | None
    method: str | None
    p: float
    exact: bool
    mcnemar: McNemar | None
    detectable: float | None
    wins: int
    ties: int
    losses: int

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the sign-flip test distinguishes the runs."""
        return self.p < ALPHA

    @property
    def is_worse(self) -> bool:
        """Whether the second run is worse beyond chance."""
        return self.delta < 0 and self.is_beyond_chance


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two runs.

    Attributes:
        tasks: Number of tasks that both runs have.
        judged: Number of these tasks with a reward in both runs.
        difference: None if no task has a reward in both runs.
        bounds: The delta over all common tasks if the missing rewards were the worst, and the best,
            for the second run; None without a common task.
        missing: Number of results of common tasks without a reward, in each run.
        asked_otherwise: Tasks in both runs whose questions differ.
        a: The report of all samples of the first run.
    """

    tasks: int
    judged: int
    difference: Delta | None
    bounds: tuple[float, float] | None
    missing: tuple[int, int]
    only_a: Unpaired
    only_b: Unpaired
    asked_otherwise: Unpaired
    a: Report
    b: Report

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe compare``."""
        return asdict(self)


def compare(first: Sequence[Sample], second: Sequence[Sample]) -> Comparison:
    """Compare the last attempts of two runs, paired by task name."""
    a, b = rewards_by_task(first), rewards_by_task(second)
    common = sorted(a.keys() & b.keys())
    pairs = [
        (known_a, known_b)
        for it in common
        if (known_a := _known(a[it])) and (known_b := _known(b[it]))
    ]
    return Comparison(
        tasks=len(common),
        judged=len(pairs),
        difference=delta_of(pairs) if pairs else None,
        bounds=_bounds(a, b, common),
        missing=(_missing(a, common), _missing(b, common)),
        only_a=_unpaired(a, b),
        only_b=_unpaired(b, a),
        asked_otherwise=_asked_otherwise(first, second),
        a=report_of(first),
        b=report_of(second),
    )


def compare_by(first: Iterable[Sample], second: Iterable[Sample]) -> dict[str, Comparison]:
    """Compare per key; each comparison covers the samples with that key."""
    a, b = _by_key(first), _by_key(second)
    return {key: compare(a.get(key, []), b.get(key, [])) for key in sorted(a.keys() | b.keys())}


def delta_of(pairs: Pairs) -> Delta:
    """The difference for these rewards; needs at least one pair, none of them empty."""
    differences = _differences(pairs)
    spread = Spread.of(pairs)
    p, exact = sign_flip(differences)
    only = _pass_in_one(pairs)
    return Delta(
        mean_a=_mean([_mean(a) for a, _ in pairs]),
        mean_b=_mean([_mean(b) for _, b in pairs]),
        **asdict(spread),
        p=p,
        exact=exact,
        mcnemar=None if only is None else McNemar(*only, mcnemar(*only)),
        wins=sum(it > 0 for it in differences),
        ties=sum(it == 0 for it in differences),
        losses=sum(it < 0 for it in differences),
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """The first fields of a ``Delta``: the mean difference and its uncertainty."""

    delta: float
    se: float | None
    low: float | None
    high: float | None
    method: str | None
    detectable: float | None

    @classmethod
    def of(cls, pairs: Pairs) -> Spread:
        """The spread of these rewards of each task's samples in both runs."""
        differences = _differences(pairs)
        delta, se, number = _mean(differences), _standard_error(differences), len(pairs)
        detectable = (t_quantile(number - 1) + Z_POWER) * se if se else None
        return cls(delta, se, *_interval(delta, se, number, _pass_in_one(pairs)), detectable)


def _differences(pairs: Pairs) -> list[float]:
    return [_difference(_mean(a), _mean(b)) for a, b in pairs]


def _difference(a: float, b: float) -> float:
    """The difference; means that are mathematically equal can differ in their last bits."""
    return b - a if abs(b - a) > ROUNDING else 0.0


def _interval(
    delta: float, se: float | None, number: int, only: tuple[int, int] | None
) -> tuple[float | None, float | None, str | None]:
    """The interval and its method; None if all differences are equal: their spread is unknown."""
    if only is not None:
        return *bonett_price(*only, number), "bonett-price"
    if not se:
        return None, None, None
    half = t_quantile(number - 1) * se
    return max(-1.0, delta - half), min(1.0, delta + half), "t"


def bonett_price(only_a: int, only_b: int, number: int) -> tuple[float, float]:
    """Interval of a difference of paired proportions (Bonett and Price 2012): adjusted Wald."""
    a, b = (only_a + 1) / (number + 2), (only_b + 1) / (number + 2)
    half = Z * math.sqrt((a + b - (b - a) ** 2) / (number + 2))
    return max(-1.0, b - a - half), min(1.0, b - a + half)


def _standard_error(differences: Sequence[float]) -> float | None:
    number = len(differences)
    if number < 2:  # noqa: PLR2004 - one task says nothing of others
        return None
    mean = _mean(differences)
    squares = math.fsum((it - mean) ** 2 for it in differences)
    return standard_error(squares / (number - 1) / number)


def _pass_in_one(pairs: Pairs) -> tuple[int, int] | None:
    """How many tasks pass in only one run; None unless each has one sample that passes or fails.

    Samples of the same task are not independent pairs.
    """
    if not all(len(a) == len(b) == 1 and {*a, *b} <= {0, 1} for a, b in pairs):
        return None
    only_a = sum(a[0] > b[0] for a, b in pairs)
    only_b = sum(b[0] > a[0] for a, b in pairs)
    return only_a, only_b


def _bounds(a: Rewards, b: Rewards, common: Sequence[str]) -> tuple[float, float] | None:
    if not common:
        return None
    low = [_filled(b[it], 0) - _filled(a[it], 1) for it in common]
    high = [_filled(b[it], 1) - _filled(a[it], 0) for it in common]
    return _mean(low), _mean(high)


def _filled(rewards: Sequence[float | None], missing: float) -> float:
    return _mean([missing if it is None else it for it in rewards])


def _known(rewards: Sequence[float | None]) -> list[float]:
    return [it for it in rewards if it is not None]


def _missing(of: Rewards, common: Iterable[str]) -> int:
    return sum(of[it].count(None) for it in common)


def _unpaired(here: Rewards, there: Rewards) -> Unpaired:
    alone = sorted(here.keys() - there.keys())
    return Unpaired(len(alone), tuple(alone[:NAMED]))


def _asked_otherwise(first: Sequence[Sample], second: Sequence[Sample]) -> Unpaired:
    """Tasks with the same name but different questions, which are not true pairs."""
    a, b = _asked(first), _asked(second)
    other = sorted(task for task in a.keys() & b.keys() if a[task].isdisjoint(b[task]))
    return Unpaired(len(other), tuple(other[:NAMED]))


def _asked(samples: Iterable[Sample]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for each in samples:
        if each.asked is not None:
            found.setdefault(each.task, set()).add(each.asked)
    return found


def _by_key(samples: Iterable[Sample]) -> Mapping[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for each in samples:
        found.setdefault(each.key, []).append(each)
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
