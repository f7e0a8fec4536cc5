"""A Result that is too large for a sink is cut to fit, and says so."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout
from agentpipe.core.token_rows import Turn
from agentpipe.rollouts import samples
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import truncate

REMEDY = "raise it"


def record(**fields: Any) -> Record:
    payload = orjson.dumps(Result(task_id="a", **fields).to_dict())
    return Record("a", payload)


def cut(given: Record, max_bytes: int) -> Result:
    payload = truncate(given, max_bytes, REMEDY)
    assert len(payload) <= max_bytes
    return Result.decode(payload)


def spans(number: int, size: int = 1_000) -> list[dict[str, Any]]:
    return [{"span_index": index, "text": "x" * size} for index in range(number)]


def test_what_fits_is_left_to_the_letter() -> None:
    given = record(trace=spans(3))
    assert truncate(given, len(given.payload), REMEDY) is given.payload


def test_of_a_trace_the_first_and_the_last_spans_are_kept() -> None:
    given = record(result="the answer", trace=spans(100))
    result = cut(given, 20_000)
    kept = [span["span_index"] for span in result.trace]
    assert 10 < len(kept) < 20
    assert kept[0] == 0
    assert kept[-1] == 99
    assert result.result == "the answer"
    assert result.truncated == {
        "bytes": len(given.payload),
        "fields": ["trace"],
        "spans": 100,
        "remedy": REMEDY,
    }


def test_one_span_that_is_too_large_is_dropped_alone() -> None:
    trace = [*spans(2), {"text": "y" * 50_000}, *spans(2)]
    assert len(cut(record(trace=trace), 20_000).trace) == 4


@pytest.mark.parametrize("character", ["x", "ü", '"', "\x01", "😀"])
def test_an_answer_that_is_too_large_keeps_its_beginning(character: str) -> None:
    result = cut(record(result=character * 100_000, trace=spans(9)), 20_000)
    assert result.trace == []
    assert result.truncated is not None
    assert result.truncated["fields"] == ["trace", "result"]
    assert result.result is None or result.result == character * len(result.result)
    if character == "x":
        assert len(result.result) > 15_000


def test_any_other_answer_is_given_up_whole() -> None:
    result = cut(record(result={"rows": ["x" * 100] * 1_000}, metadata={"k": "v"}), 20_000)
    assert result.result is None
    assert result.metadata == {"k": "v"}


def test_what_is_no_result_becomes_one_that_says_that_its_task_has_ended() -> None:
    result = cut(Record("a", b"\xff" * 100_000), 20_000)
    assert (result.task_id, result.outcome) == ("a", "infra_error")
    assert result.truncated is not None


def rollout(tokens: int) -> dict[str, Any]:
    recorded = Rollout()
    recorded.add(Turn([1], [2] * tokens, [-0.5] * tokens), engine="vllm", model="m")
    return recorded.to_dict("stop")


def test_a_trace_is_cut_before_a_rollout_however_large_that_is() -> None:
    given = record(result="the answer", trace=spans(10), rollout=rollout(3_000))
    result = cut(given, len(given.payload) - 5_000)
    assert result.truncated is not None
    assert result.truncated["fields"] == ["trace"]
    assert len(samples(result)) == 1


def test_a_cut_rollout_is_not_exact_and_gives_no_sample() -> None:
    result = cut(record(result="the answer", rollout=rollout(10_000)), 20_000)
    assert result.result == "the answer"
    assert result.rollout is not None
    assert (result.rollout["exact"], result.rollout["segments"]) == (False, [])
    assert result.rollout["gaps"] == [{"code": "cut", "turn": 0}]
    assert samples(result, inexact=True) == []


@pytest.mark.parametrize(
    "neighbour",
    [
        {"task": {"question": "q" * 400_000}},
        {"task": {"question": "why?", "evaluators": [{"func": "json", "value": "x" * 400_000}]}},
        {"metadata": {"notes": "x" * 400_000}},
        {"error": {"message": "x" * 400_000}},
        {"evaluation_results": [{"reason": "x" * 400_000}]},
        {"usage": {"raw": "x" * 400_000}},
    ],
    ids=lambda each: next(iter(each)),
)
def test_no_small_answer_goes_for_a_large_neighbour(neighbour: dict[str, Any]) -> None:
    """Even if no single field takes half of the space."""
    others: dict[str, Any] = {"trace": spans(300), "metadata": {"k": "m" * 350_000}}
    given = record(**{"result": "a" * 100_000, **others, **neighbour})
    result = cut(given, 640_000)
    assert result.result == "a" * 100_000
    assert result.truncated is not None
    assert next(iter(neighbour)) in result.truncated["fields"]


def test_the_largest_field_goes_first_and_all_others_stay() -> None:
    given = record(result="four", trace=spans(100), task={"question": "q" * 300_000})
    result = cut(given, 250_000)
    assert result.truncated is not None
    assert result.truncated["fields"] == ["task"]
    assert (result.result, len(result.trace)) == ("four", 100)
    assert result.task is not None
    assert 100_000 < len(result.task["question"]) < 200_000


def test_of_a_task_the_largest_fields_go() -> None:
    evaluators = [{"func": "json", "value": "x" * 50_000}]
    given = record(task={"question": "2 and 2?", "evaluators": evaluators, "category": "sums"})
    assert cut(given, 20_000).task == {"question": "2 and 2?", "category": "sums"}
