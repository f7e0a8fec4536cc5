"""The cost figures of a run are checked when they arrive; a bad one never loses the answer."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import orjson
import pytest

from agentpipe.core import trace
from agentpipe.core.trace import Tracer
from agentpipe.core.usage import MAX_NAMES, MAX_NUMBER, Usage


class Tokens(IntEnum):
    """An integer subclass."""

    FEW = 3


class Dollars(float):
    """A float subclass like numpy's float64, which no JSON encoder knows."""

    __slots__ = ()


def summed(*usages: Any) -> dict[str, Any]:
    usage = Usage()
    for each in usages:
        usage.add(each)
    found = usage.to_dict()
    assert orjson.loads(orjson.dumps(found)) == found
    return found


@pytest.mark.parametrize(
    "number",
    [2**70, 10**1_000, -1, -0.5, float("nan"), float("inf"), float("-inf"), 1e300, MAX_NUMBER + 1],
)
def test_a_number_that_cannot_be_right_is_left_out_and_said(number: float) -> None:
    usage = Usage()
    left_out = usage.add({"requests": 1, "input_tokens": number, "usd": 0.5})
    assert "'input_tokens'" in left_out
    assert "expected 0 to 9,007,199,254,740,992" in left_out
    assert usage.to_dict() == {"requests": 1, "usd": 0.5}


def test_a_number_too_long_to_be_written_is_left_out() -> None:
    assert "more than 128 bits" in Usage().add({"tokens": 10**5_000})


def test_a_sum_stops_where_a_double_is_exact() -> None:
    assert summed(*[{"tokens": MAX_NUMBER}] * 3) == {"tokens": MAX_NUMBER}
    assert summed({"tokens": MAX_NUMBER}, {"tokens": 0.5}) == {"tokens": MAX_NUMBER}


def test_a_price_that_is_left_out_leaves_the_sum_unknown() -> None:
    assert summed({"usd": 1.0}, {"usd": float("nan"), "requests": 1}) == {"requests": 1}


def test_numbers_of_other_types_become_pythons_own() -> None:
    assert summed({"tokens": Tokens.FEW, "usd": Dollars(0.25)}) == {"tokens": 3, "usd": 0.25}


def test_names_are_bounded_and_valid() -> None:
    many = {f"name-{number}": 1 for number in range(MAX_NAMES + 5)}
    assert len(summed(many, many)) == MAX_NAMES
    assert set(summed({"\ud800": 1, "x" * 1_000: 1})) == {"\ufffd", "x" * 100}


@pytest.mark.parametrize("usage", [None, [], "x", {"a": "1"}, {"a": True}, {"a": None}, {1: 1}])
def test_what_is_no_object_of_numbers_is_an_error(usage: Any) -> None:
    with pytest.raises(TypeError, match="usage: "):
        Usage().add(usage)


def test_a_span_says_what_was_left_out() -> None:
    tracer = Tracer()
    with tracer.root():
        trace.record_usage({"tokens": 2**70, "requests": 1})
    said, _ = tracer.spans
    assert said["records"][0]["data"]["type"] == "usage"
    assert "'tokens' is 1180591620717411303424" in said["records"][0]["data"]["dropped"]
    assert tracer.usage.to_dict() == {"requests": 1}
