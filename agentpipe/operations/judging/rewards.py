"""Rewards: collects rewards by group, and estimates their mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.operations.judging.intervals import (
    effective_number,
    standard_error,
    t_interval,
    wilson_interval,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

PASSED = 1.0


@dataclass(slots=True)
class _Group:
    """The samples of one task that have a reward."""

    number: int = 0
    reward: float = 0.0
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean reward with its uncertainty.

    Attributes:
        se: The standard error, clustered by group, because samples of one task are not
            independent. None with fewer than two groups.
        low: Lower bound of the 95 % interval; None without an interval.
        method: ``wilson`` if each reward is 0 or 1, else ``t``.
        rewarded: Number of results with a reward.
        groups: Number of tasks that they are samples of.
        binary: Whether each reward is 0 or 1.
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    method: str | None
    rewarded: int
    groups: int
    binary: bool


@dataclass(frozen=True, slots=True)
class PassK:
    """Probabilities that any, or all, of ``k`` samples of a task pass, averaged over tasks.

    Attributes:
        groups: Tasks with at least ``k`` rewarded samples; only these count.
        left_out: Tasks with fewer, or none.
    """

    k: int
    any_passes: float | None
    all_pass: float | None
    groups: int
    left_out: int


class Rewards:
    """Takes rewards one by one; memory grows only with the number of groups."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._binary = True
        self._unrewarded: set[str] = set()
        self.missing = 0

    def add(self, group: str, reward: float | None) -> None:
        """Add a result of ``group``; None means a missing reward."""
        if reward is None:
            self.missing += 1
            self._unrewarded.add(group)
            return
        of_group = self._groups.get(group)
        if of_group is None:
            of_group = self._groups[group] = _Group()
        of_group.number += 1
        of_group.reward += reward
        of_group.passed += reward >= PASSED
        self._binary = self._binary and reward in (0, 1)

    @property
    def rewarded(self) -> int:
        """How many results have a reward."""
        return sum(group.number for group in self._groups.values())

    def estimate(self) -> Estimate | None:
        """The mean over the results with a reward; None if there are none."""
        number, groups = self.rewarded, len(self._groups)
        if not number:
            return None
        mean = self._total() / number
        se = self._standard_error(mean, number)
        known = mean, se, *self._interval(mean, se, number)
        return Estimate(*known, number, groups, self._binary)

    def _interval(
        self, mean: float, se: float | None, number: int
    ) -> tuple[float | None, float | None, str | None]:
        groups = len(self._groups)
        if self._binary and (se is not None or number == 1):
            effective = effective_number(mean, se or 0.0, number, groups)
            return *wilson_interval(mean, effective), "wilson"
        if se:
            return *t_interval(mean, se, groups - 1), "t"
        return None, None, None  # One group, or equal ones: how far others differ is unknown.

    def _standard_error(self, mean: float, number: int) -> float | None:
        """Clustered by group, with the usual correction for few groups."""
        groups = len(self._groups)
        if groups < 2:  # noqa: PLR2004 - one group says nothing of others
            return None
        squares = math.fsum((it.reward - it.number * mean) ** 2 for it in self._groups.values())
        return standard_error(squares * groups / (groups - 1) / number**2)

    def bounds(self) -> tuple[float, float] | None:
        """The mean if each missing reward were 0, and if each were 1; None without a result."""
        number = self.rewarded + self.missing
        if not number:
            return None
        total = self._total()
        return total / number, (total + self.missing) / number

    def _total(self) -> float:
        return math.fsum(group.reward for group in self._groups.values())

    def pass_k(self, k: int) -> PassK:
        """Unbiased, from all samples of a task: 1 - C(n-c, k) / C(n, k) and C(c, k) / C(n, k)."""
        enough = [group for group in self._groups.values() if group.number >= k]
        left_out = len(self._groups.keys() | self._unrewarded) - len(enough)
        some = [1 - _chance(it.number - it.passed, it.number, k) for it in enough]
        every = [_chance(it.passed, it.number, k) for it in enough]
        return PassK(k, _mean(some), _mean(every), len(enough), left_out)


def _chance(good: int, number: int, k: int) -> float:
    """Probability that ``k`` of ``number``, drawn without replacement, are all ``good``."""
    return math.comb(good, k) / math.comb(number, k)


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None
