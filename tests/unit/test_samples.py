"""Which results of a run count: the last attempt at each sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.result import Result
from agentpipe.operations.judging.report import key_of, summarize
from agentpipe.operations.judging.samples import (
    Sample,
    rewards_by_task,
    samples_of,
    without_rescored,
)
from agentpipe.operations.judging.spares import Spares

if TYPE_CHECKING:
    from collections.abc import Sequence


def at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02d}Z"


def failed(task_id: str, second: int = 1, **fields: Any) -> Result:
    given = {"outcome": "infra_error", "usage": {"usd": 0.5}, "run": "v2"}
    return Result(task_id=task_id, finished_at=at(second), **(given | fields))


def right(task_id: str, second: int = 1, **fields: Any) -> Result:
    return failed(task_id, second, outcome="ok", reward=1.0, **fields)


FIRST, SECOND, THIRD = (
    failed("v2/a", 1),
    failed("v2/a~r1", 2, retry_of="v2/a"),
    right("v2/a~r2", 3, retry_of="v2/a~r1"),
)


@pytest.mark.parametrize(
    "order", [(FIRST, SECOND, THIRD), (THIRD, FIRST, SECOND), (SECOND, THIRD, FIRST)]
)
def test_the_last_attempt_counts_with_the_cost_of_all(order: Sequence[Result]) -> None:
    report, _ = summarize(order)
    assert (report.results, report.retried, report.outcomes) == (1, 1, {"ok": 1})
    assert (report.usage, report.priced) == ({"usd": 1.5}, 1)


def test_a_retry_that_names_the_first_attempt_is_one_of_its_family() -> None:
    report, _ = summarize([FIRST, SECOND, right("v2/a~r2", 3, retry_of="v2/a")])
    assert (report.results, report.outcomes) == (1, {"ok": 1})


def test_a_replay_counts_for_its_dead_task() -> None:
    report, _ = summarize([failed("v2/a"), right("1f", 2, replay_of="v2/a"), right("v2/b")])
    assert (report.results, report.replayed, report.retried) == (2, 1, 0)


def test_a_sample_that_nobody_tried_again_stays_as_it_is() -> None:
    report, _ = summarize([right("v2/a"), right("v2/b"), failed("v2/c")])
    assert (report.results, report.retried, report.outcomes) == (3, 0, {"ok": 2, "infra_error": 1})


def test_a_retry_alone_is_known_by_its_first_attempt() -> None:
    [sample] = samples_of([THIRD, SECOND])
    assert (sample.group, sample.task) == ("v2/a", "a")


def test_attempts_that_name_each_other_in_a_circle_all_count() -> None:
    circle = [right("a", retry_of="b"), right("b", retry_of="a"), right("c", retry_of="c")]
    assert len(samples_of(circle)) == 3


def test_samples_are_of_one_task_whatever_their_run_is_called() -> None:
    first = [right("v1/a/0", run="v1", group_id="v1/a"), right("v1/b", run="v1")]
    second = [right("v2/a/1", group_id="v2/a"), right("v2/b"), failed("v2/a/2", group_id="v2/a")]
    assert rewards_by_task(samples_of(first)) == {"a": [1.0], "b": [1.0]}
    assert rewards_by_task(samples_of(second)) == {"a": [1.0, None], "b": [1.0]}


def test_results_are_divided_by_the_context_of_their_agent() -> None:
    results = [right("v2/a", context=0), right("v2/b", context=1), right("v2/c")]
    _, by = summarize(results, key_of("context"))
    assert {name: part.usage["usd"] for name, part in by.items()} == {"-": 0.5, "0": 0.5, "1": 0.5}


def test_configs_are_counted() -> None:
    results = [right("v2/a", config_hash="1"), right("v2/b", config_hash="2"), right("v2/c")]
    assert summarize(results)[0].config_hashes == {"1": 1, "2": 1}


def of_group(name: str, number: int, outcome: str, ran_s: int | None, **fields: Any) -> Result:
    started = None if ran_s is None else at(0)
    fields = {"group_id": name, "group_need": 2, "started_at": started, **fields}
    reward = 1.0 if outcome == "ok" else None
    return failed(f"{name}/{number}", ran_s or 0, outcome=outcome, reward=reward, **fields)


def test_what_spares_have_cut_off_is_told_with_its_times() -> None:
    whole = [of_group("a", number, "ok", 4) for number in (0, 1)]
    ran, waited = of_group("a", 2, "cancelled", 9), of_group("a", 3, "cancelled", None)
    alone = [of_group("b", 0, "ok", 50), of_group("b", 1, "cancelled", 50)]  # Cancelled by hand.
    other = [of_group("c", number, "ok", 50) for number in (0, 1)]
    uncounted = [
        of_group("d", number, outcome, 50, group_need=None)
        for number, outcome in enumerate(("ok", "ok", "cancelled"))
    ]
    report, by = summarize([*whole, ran, waited, *alone, *other, *uncounted], key_of("group"))
    assert report.spares == Spares(1, 2, 1, 1, kept_s=4, cut_s=9)
    assert {name: part.spares is not None for name, part in by.items()} == {
        "a": True,
        "b": False,
        "c": False,
        "d": False,
    }
    assert summarize([*whole, waited])[0].spares == Spares(1, 2, 0, 1, kept_s=4, cut_s=None)


def test_rescored_answers_are_left_to_their_own_run() -> None:
    again, left_out = right("v2b/a", run="v2b", rescored_of="v2/a"), list[str]()
    assert list(without_rescored([right("v2/a"), again], left_out)) == [right("v2/a")]
    assert left_out == ["v2b"]
    assert summarize([again])[0].rescored == 1


def test_numbers_that_would_spoil_a_run_are_left_out() -> None:
    odd = {"output_tokens": 1e300, "usd": -5, "requests": 2, "note": "x"}
    for reward in (1e308, -5, math.nan):
        sample = Sample.of(Result(task_id="x", reward=reward, usage=odd))
        assert sample.reward is None
        assert sample.usage == {"requests": 2}
