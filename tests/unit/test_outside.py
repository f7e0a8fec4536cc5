"""Whatever bytes come from outside, the data read from them can be encoded again."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress

import pytest

from agentpipe.core.caps import MAX_JSON_DEPTH, MAX_JSON_VALUES
from agentpipe.core.outside import (
    CostlyJson,
    encoded,
    read_json,
    read_shallow_json,
    refuse_many_values,
)
from tests.mutations import mutated

VALID = {"id": 1, "result": {"content": [{"type": "text", "text": "Zoë 😀"}], "é": [1, None]}}


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'"a\xff"', "a\ufffd"),
        (b'{"\\ud800": ["\\udfff", 1]}', {"\ufffd": ["\ufffd", 1]}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'["\\ud800", 1180591620717411303424]', ["\ufffd", 2.0**70]),
        (b'["\\ud800", ' + b"9" * 5_000 + b"]", ["\ufffd", math.inf]),
    ],
)
def test_json_is_read_with_its_flaws_replaced(data: bytes, value: object) -> None:
    assert read_json(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"nothing", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting|column"):
        read_json(data)


@pytest.mark.parametrize("value", ["\ud800", 2**70, {"a": {"\udfff": "b"}}])
def test_what_orjson_refuses_is_encoded(value: object) -> None:
    json.loads(encoded(value))


def test_all_that_is_read_is_encoded_however_deep() -> None:
    deep = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
    assert encoded(read_json(deep)) == deep


@pytest.mark.parametrize("levels", [MAX_JSON_DEPTH + 1, 900, 1_000_000])
@pytest.mark.parametrize("inner", [b"", b"NaN", b'"\\ud800"'])
def test_deeper_json_is_refused_with_the_caps_name(levels: int, inner: bytes) -> None:
    with pytest.raises(ValueError, match=r"220 levels \(MAX_JSON_DEPTH\)|JSON|column|Expecting"):
        read_json(b"[" * levels + inner + b"]" * levels)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"7", b'"a"', b'{"a":{}}', b'"\\\\"'])
def test_json_that_takes_many_times_its_bytes_is_refused(value: bytes) -> None:
    most = MAX_JSON_VALUES
    with pytest.raises(CostlyJson, match="MAX_JSON_VALUES"):
        read_json(b"[" + b",".join([value] * (most + 1)) + b"]")


@pytest.mark.parametrize("text", [",[{", '\\",[', "\\\\,"])
def test_marks_within_strings_are_no_values(text: str) -> None:
    data = b'["' + text.encode() * MAX_JSON_VALUES + b'"]'
    assert len(read_json(data)) == 1


@pytest.mark.parametrize("open_", [b'["', b'["\\', b'["\\"', b'"'])
def test_the_look_at_json_takes_time_that_grows_with_its_size(open_: bytes) -> None:
    def seconds(times: int) -> float:
        begun = time.process_time()
        with suppress(CostlyJson):
            refuse_many_values(open_ + (b'\\",[' * times))
        return time.process_time() - begun

    small, large = seconds(250_000), seconds(2_000_000)
    assert large < 40 * small + 1


@pytest.mark.parametrize("depth", [250, 1_500, 100_000])
def test_what_is_nested_too_deeply_is_a_note_beside_the_rest(depth: int) -> None:
    deep = b'{"]":' * depth + b'"[\\""' + b"}" * depth
    read = read_shallow_json(b'{"answer": "paid", "trace": [' + deep + b', {"a": ["\\"}"]}]}')
    assert read["answer"] == "paid"
    assert read["trace"][1] == {"a": ['"}']}
    assert depth == 250 or "nested deeper" in json.dumps(read["trace"][0])


def test_deep_nesting_that_is_no_json_stays_an_error() -> None:
    with pytest.raises(ValueError, match=r"unexpected|JSON|Expecting|nested"):
        read_shallow_json(b"[" * 100_000)


def test_what_is_read_can_be_written_whatever_the_damage() -> None:
    read = 0
    for seed in range(2_000):
        try:
            value = read_json(mutated(json.dumps(VALID).encode(), seed))
        except ValueError:
            continue
        encoded(value).decode()
        read += 1
    assert read > 500
