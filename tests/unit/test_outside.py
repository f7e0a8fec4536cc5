"""Whatever bytes come from outside, what is read from them can be written again."""

from __future__ import annotations

import json
import math

import pytest

from agentpipe.core.outside import encoded, read_json, read_shallow_json
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


def test_deep_nesting_is_encoded() -> None:
    deep = read_json(b"[" * 900 + b"]" * 900)
    assert encoded(deep) == b"[" * 900 + b"]" * 900


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
