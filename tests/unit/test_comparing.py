"""Comparisons of two runs, checked against tables, enumerations and hand calculations."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import TYPE_CHECKING

import pytest

from agentpipe.core.result import Result
from agentpipe.operations.judging.comparing import Spread, bonett_price, compare, compare_by
from agentpipe.operations.judging.intervals import t_quantile
from agentpipe.operations.judging.permutation import MAX_ENUMERATED, mcnemar, sign_flip
from agentpipe.operations.judging.report import key_of
from agentpipe.operations.judging.samples import samples_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.operations.judging.comparing import Comparison
    from agentpipe.operations.judging.samples import Sample


def run_of(name: str, **tasks: Sequence[float | None]) -> list[Sample]:
    """Samples by task; a task with a single sample has no group."""
    return samples_of(
        Result(
            task_id=f"{name}/{task}/{number}" if len(rewards) > 1 else f"{name}/{task}",
            group_id=f"{name}/{task}" if len(rewards) > 1 else None,
            run=name,
            reward=reward,
            outcome="ok" if reward is not None else "limit",
        )
        for task, rewards in tasks.items()
        for number, reward in enumerate(rewards)
    )


def compared(
    first: Mapping[str, Sequence[float | None]], second: Mapping[str, Sequence[float | None]]
) -> Comparison:
    return compare(run_of("v1", **first), run_of("v2", **second))


def test_tasks_that_all_differ_alike_have_no_interval() -> None:
    tenths = [[number / 10] for number in range(9)]
    first = {f"t{number}": it for number, it in enumerate(tenths[:-1])}
    second = {f"t{number}": it for number, it in enumerate(tenths[1:])}
    found = compared(first, second).difference
    assert found is not None
    assert (found.se, found.low, found.high, found.method) == (0.0, None, None, None)
    assert found.detectable is None
    assert found.wins == 8


@pytest.mark.parametrize(
    "differences",
    [
        [0.5],
        [1, 1, 1, 1, 1],
        [1, -1],
        [0.25, 0.5, -0.125, 0, 0.75, -0.5],
        [0.1, 0.2, 0.3, -0.3, 0.1, 0.7],
        [0, 0, 0],
    ],
)
def test_sign_flips_are_what_all_signs_give(differences: list[float]) -> None:
    observed = abs(sum(differences))
    flips = [
        abs(sum(s * it for s, it in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = sum(it >= observed - 1e-12 for it in flips) / len(flips)
    p, exact = sign_flip(differences)
    assert exact
    assert p == pytest.approx(expected)


def test_five_tasks_that_all_lose_are_no_proof() -> None:
    """By hand: 2 of 32 sign patterns are as extreme."""
    assert sign_flip([-1.0] * 5)[0] == 2 / 32
    assert sign_flip([-1.0] * 6)[0] == 2 / 64


def test_drawn_flips_come_near_to_the_binomial_distribution() -> None:
    """At least 20 of 30 equal differences on one side: twice the binomial tail, 0.0987."""
    p, exact = sign_flip([1.0] * 20 + [-1.0] * 10)
    tail = 2 * sum(math.comb(30, k) for k in range(20, 31)) / 2**30
    assert not exact
    assert p == pytest.approx(tail, abs=0.01)
    assert sign_flip([1.0] * 20 + [-1.0] * 10) == (p, False)


def test_a_last_table_that_is_shorter_changes_no_probability() -> None:
    for number in (MAX_ENUMERATED + 1, 24, 25):
        p, exact = sign_flip([1.0] * (number - 4) + [-1.0] * 4)
        tail = 2 * sum(math.comb(number, k) for k in range(5)) / 2**number
        assert not exact
        assert p == pytest.approx(tail, abs=0.01)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (0, 6, 0.03125), (5, 15, 0.0414), (10, 10, 1.0), (2, 8, 0.1094)],
)
def test_mcnemars_exact_test(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=5e-5)
    assert mcnemar(only_b, only_a) == pytest.approx(p, abs=5e-5)


def test_mcnemar_of_many_pairs() -> None:
    assert 0 < mcnemar(900, 1_100) < 1e-4


def test_the_interval_of_one_sample_that_passes_or_fails() -> None:
    """By hand, for 98 tasks with 9 and 4: shares of 10/100 and 5/100."""
    half = 1.959964 * math.sqrt((0.15 - 0.05**2) / 100)
    assert bonett_price(9, 4, 98) == pytest.approx((-0.05 - half, -0.05 + half), abs=1e-6)


def test_graded_samples_are_averaged_by_task() -> None:
    found = compared(
        {"a": [0.2, 0.4], "b": [0.5], "c": [0.9]}, {"a": [0.5], "b": [0.5], "c": [1.0]}
    )
    delta = found.difference
    assert delta is not None
    differences = [0.2, 0.0, 0.1]
    mean = sum(differences) / 3
    se = math.sqrt(sum((it - mean) ** 2 for it in differences) / 2 / 3)
    assert delta.delta == pytest.approx(mean)
    assert delta.se == pytest.approx(se)
    assert delta.low == pytest.approx(mean - t_quantile(2) * se)
    assert delta.high == pytest.approx(mean + t_quantile(2) * se)
    assert (delta.method, delta.mcnemar) == ("t", None)
    assert (delta.wins, delta.ties, delta.losses) == (2, 1, 0)
    assert delta.detectable == pytest.approx((4.3027 + 0.8416) * se, rel=1e-4)


def test_one_sample_each_that_passes_or_fails_has_mcnemars_test() -> None:
    first = {"a": [1.0], "b": [1.0], "c": [0.0], "d": [1.0]}
    second = {"a": [0.0], "b": [0.0], "c": [1.0], "d": [1.0]}
    delta = compared(first, second).difference
    assert delta is not None
    assert delta.mcnemar is not None
    assert (delta.mcnemar.only_a, delta.mcnemar.only_b, delta.mcnemar.p) == (2, 1, 1.0)
    assert (delta.method, delta.delta, delta.p) == ("bonett-price", -0.25, 1.0)


def test_one_task_says_nothing_of_others() -> None:
    delta = compared({"a": [0.0, 1.0]}, {"a": [1.0, 1.0]}).difference
    assert delta is not None
    assert (delta.delta, delta.se, delta.low, delta.p, delta.detectable) == (
        0.5,
        None,
        None,
        1,
        None,
    )


def test_no_task_in_common_is_no_comparison() -> None:
    found = compared({"a": [1.0]}, {"b": [1.0]})
    assert (found.tasks, found.difference, found.bounds) == (0, None, None)
    assert (found.only_a.first, found.only_b.first) == (("a",), ("b",))


def test_the_same_run_twice_is_all_ties() -> None:
    rewards = {"a": [0.5, 1.0], "b": [0.25, 0.0]}
    delta = compared(rewards, rewards).difference
    assert delta is not None
    assert (delta.delta, delta.p, delta.ties, delta.low, delta.is_worse) == (0, 1, 2, None, False)


def test_sums_that_differ_in_their_last_bits_are_ties() -> None:
    delta = compared({"a": [0.1, 0.2]}, {"a": [0.15]}).difference
    assert delta is not None
    assert (delta.ties, delta.wins, delta.losses) == (1, 0, 0)


def test_missing_rewards_bound_the_delta() -> None:
    found = compared(
        {"a": [1.0, None], "b": [0.0], "gone": [1.0]}, {"a": [1.0], "b": [None], "new": [None]}
    )
    assert (found.tasks, found.judged, found.missing) == (2, 1, (1, 1))
    # By hand: in B, a is 1 and b is 0 to 1; in A, a is 0.5 to 1 and b is 0.
    assert found.bounds == (0.0, 0.75)
    assert found.difference is not None
    assert found.difference.delta == 0
    assert (found.only_a.count, found.only_b.count) == (1, 1)


def test_only_the_first_tasks_of_one_run_are_named() -> None:
    found = compared({f"t{n:02d}": [1.0] for n in range(50)}, {"x": [1.0]})
    assert found.only_a.count == 50
    assert found.only_a.first == tuple(f"t{n:02d}" for n in range(10))


def test_worse_beyond_chance_needs_enough_tasks() -> None:
    for number, worse in ((5, False), (6, True)):
        tasks = [f"t{n}" for n in range(number)]
        found = compared({it: [1.0] for it in tasks}, {it: [0.0] for it in tasks})
        assert found.difference is not None
        assert found.difference.is_worse is worse


def test_a_field_divides_both_runs() -> None:
    results = [
        Result(task_id=f"{run}/{n}", run=run, reward=reward, metadata={"level": n % 2})
        for run, reward in (("v1", 0.0), ("v2", 1.0))
        for n in range(4)
    ]
    samples = samples_of(results, key_of("metadata.level"))
    first, second = ([it for it in samples if it.run == run] for run in ("v1", "v2"))
    by = compare_by(first, second)
    assert {key: part.tasks for key, part in by.items()} == {"0": 2, "1": 2}


@pytest.mark.long
def test_the_interval_covers_a_small_effect_as_often_as_it_says() -> None:
    """+2 points, 200 tasks x 8 samples: 95 +- 1.5 % of 2,000, 30 % narrower than unpaired."""
    effect, tasks, samples, simulations = 0.02, 200, 8, 2_000
    chance, covered, narrower = random.Random(7), 0, []
    for _ in range(simulations):
        pairs = [_pair(chance, effect, samples) for _ in range(tasks)]
        found = Spread.of(pairs)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= effect <= found.high
        spread = [_variance([sum(it[side]) / samples for it in pairs]) for side in (0, 1)]
        unpaired = 2 * 1.96 * math.sqrt(sum(spread) / tasks)
        narrower.append((found.high - found.low) / unpaired)
    assert 0.935 <= covered / simulations <= 0.965
    assert max(narrower) <= 0.7


def _pair(chance: random.Random, effect: float, samples: int) -> tuple[list[float], list[float]]:
    """Rewards of one task in both runs; each task has its own difficulty."""
    easy = chance.uniform(0.05, 0.93)
    first, second = (
        [float(chance.random() < share) for _ in range(samples)] for share in (easy, easy + effect)
    )
    return first, second


def _variance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((it - mean) ** 2 for it in values) / (len(values) - 1)


def test_mcnemar_of_many_pairs_is_as_of_few() -> None:
    exact = sum(math.comb(1_000, k) for k in range(451)) * 2 / 2**1_000
    assert mcnemar(450, 550) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(20_000, 20_000) == 1.0
    assert mcnemar(19_000, 21_000) == pytest.approx(1.6e-23, rel=0.1)
