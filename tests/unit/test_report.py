"""The statistics of a report, checked against tables, enumerations and hand calculations."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.result import Result
from agentpipe.errors import ConfigError
from agentpipe.operations.judging.intervals import Z, t_quantile, wilson_interval
from agentpipe.operations.judging.report import Report, key_of, summarize
from agentpipe.operations.judging.rewards import Rewards

if TYPE_CHECKING:
    from collections.abc import Sequence


def rewards(**groups: Sequence[float | None]) -> Rewards:
    taken = Rewards()
    for group, values in groups.items():
        for value in values:
            taken.add(group, value)
    return taken


def sample(task_id: str, reward: float | None = None, **fields: Any) -> Result:
    return Result(task_id=task_id, reward=reward, **fields)


def whole(*results: Result) -> Report:
    return summarize(results)[0]


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (30, 2.0423), (1_000, 1.9623)],
)
def test_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


def test_many_degrees_are_nearly_normal() -> None:
    assert t_quantile(100_000) == pytest.approx(Z, abs=5e-5)
    assert t_quantile(10**7) == Z


@pytest.mark.parametrize(
    ("passed", "number", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval(passed: int, number: int, low: float, high: float) -> None:
    assert wilson_interval(passed / number, number) == pytest.approx((low, high), abs=5e-5)


def test_a_task_with_one_sample_each_that_passes_or_fails_has_wilsons() -> None:
    estimate = rewards(a=[1.0], b=[0.0], c=[1.0], d=[1.0]).estimate()
    assert estimate is not None
    assert (estimate.mean, estimate.method, estimate.binary) == (0.75, "wilson", True)
    assert (estimate.low, estimate.high) == wilson_interval(0.75, 4)


def test_samples_of_one_task_are_one_cluster() -> None:
    """Two tasks with four equal samples each weigh as much as two samples, not eight."""
    estimate = rewards(a=[1.0] * 4, b=[0.0] * 4).estimate()
    assert estimate is not None
    assert (estimate.mean, estimate.rewarded, estimate.groups) == (0.5, 8, 2)
    assert estimate.se == pytest.approx(math.sqrt(2 * (2**2 + 2**2)) / 8)
    assert estimate.method == "wilson"
    assert (estimate.low, estimate.high) == pytest.approx((0, 1), abs=0.01)


def test_samples_that_agree_as_little_as_other_tasks_count_each() -> None:
    estimate = rewards(a=[1.0, 0.0] * 4, b=[0.0, 1.0] * 4).estimate()
    assert estimate is not None
    assert estimate.se == 0
    assert (estimate.low, estimate.high) == wilson_interval(0.5, 16)


def test_where_all_pass_each_task_counts_once() -> None:
    estimate = rewards(a=[1.0] * 8, b=[1.0] * 8, c=[1.0] * 8).estimate()
    assert estimate is not None
    assert (estimate.low, estimate.high) == wilson_interval(1.0, 3)


def test_graded_rewards_of_single_samples_have_the_usual_error() -> None:
    values = [0.2, 0.4, 0.9, 0.5]
    estimate = rewards(**{f"t{n}": [value] for n, value in enumerate(values)}).estimate()
    assert estimate is not None
    mean = sum(values) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
    assert estimate.se == pytest.approx(deviation / 2)
    assert estimate.low == pytest.approx(mean - t_quantile(3) * deviation / 2)


@pytest.mark.parametrize("values", [[0.5], [0.1], [0.1, 0.2, 0.7]])
def test_graded_tasks_that_are_all_equal_have_no_interval(values: list[float]) -> None:
    estimate = rewards(a=values, b=values, c=values).estimate()
    assert estimate is not None
    assert (estimate.se, estimate.low, estimate.high, estimate.method) == (0.0, None, None, None)


def test_one_task_alone_has_no_error() -> None:
    estimate = rewards(a=[1.0, 0.0]).estimate()
    assert estimate is not None
    assert (estimate.mean, estimate.se, estimate.low, estimate.method) == (0.5, None, None, None)


@pytest.mark.parametrize("number", [*range(1, 200), 5_000])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilsons_interval_of_none_or_all_ends_there(share: float, number: int) -> None:
    low, high = wilson_interval(share, number)
    assert 0 <= low <= share <= high <= 1


def test_nothing_that_is_rewarded_has_no_mean_and_the_widest_bounds() -> None:
    none = rewards(a=[None, None])
    assert (none.estimate(), none.bounds(), none.missing) == (None, (0.0, 1.0), 2)
    assert (Rewards().estimate(), Rewards().bounds()) == (None, None)


def test_what_is_missing_may_be_all_wrong_or_all_right() -> None:
    assert rewards(a=[1.0, None], b=[0.0, None]).bounds() == (0.25, 0.75)
    assert rewards(a=[0.5]).bounds() == (0.5, 0.5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pass_k_is_what_all_choices_of_k_samples_give(k: int) -> None:
    groups = {"a": [1.0, 0.0, 1.0, 0.5], "b": [0.0] * 5, "c": [1.0] * 4, "d": [1.0]}
    found = rewards(**groups).pass_k(k)
    choices = [[*combinations(values, k)] for values in groups.values() if len(values) >= k]
    some = [sum(max(it) >= 1 for it in each) / len(each) for each in choices]
    every = [sum(min(it) >= 1 for it in each) / len(each) for each in choices]
    assert found.any_passes == pytest.approx(sum(some) / len(some))
    assert found.all_pass == pytest.approx(sum(every) / len(every))
    assert (found.groups, found.left_out) == (len(choices), 4 - len(choices))


def test_no_task_may_have_enough_samples() -> None:
    found = rewards(a=[1.0]).pass_k(2)
    assert (found.any_passes, found.all_pass, found.groups, found.left_out) == (None, None, 0, 1)


def test_a_field_divides_the_results() -> None:
    results = [
        sample("1", 1.0, agent="x", metadata={"level": 1}),
        sample("2", 0.0, agent="y", metadata={"level": "hard"}),
        sample("3", None, agent="x", outcome="limit"),
    ]
    for field, expected in (
        ("agent", {"x": 2, "y": 1}),
        ("outcome", {"limit": 1, "ok": 2}),
        ("metadata.level", {"-": 1, "1": 1, "hard": 1}),
        ("group", {"1": 1, "2": 1, "3": 1}),
    ):
        _, by = summarize(results, key_of(field))
        assert {name: part.results for name, part in by.items()} == expected


@pytest.mark.parametrize("field", ["", "trace", "metadata.", "metadata", "Agent"])
def test_other_fields_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match="choose from group"):
        key_of(field)


def test_cost_and_times_are_added_up() -> None:
    times: dict[str, Any] = {
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:04Z",
    }
    report = whole(
        sample("1", usage={"input_tokens": 3, "usd": 0.25}, **times),
        sample("2", usage={"input_tokens": 4}, **(times | {"finished_at": "2026-01-01T00:00:02Z"})),
        sample("3", usage={}, started_at="soon", finished_at=None),
    )
    assert report.usage == {"input_tokens": 7, "usd": 0.25}
    assert (report.priced, report.run_s) == (1, (2.0, 4.0))
    assert (report.duration_s, report.per_s) == (4.0, 0.75)


def test_an_empty_stream_has_an_empty_report() -> None:
    report = whole()
    assert (report.results, report.outcomes, report.pass_rate, report.run_s) == (0, {}, None, None)


def test_a_task_without_a_rewarded_sample_is_left_out_of_pass_k() -> None:
    rewards = Rewards()
    rewards.add("a", 1.0)
    rewards.add("b", None)
    rewards.add("a", None)
    assert (rewards.pass_k(1).groups, rewards.pass_k(1).left_out) == (1, 1)
    assert rewards.pass_k(2).left_out == 2
