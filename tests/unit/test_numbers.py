"""What counts as a number, and the text of a value from outside."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from agentpipe.core.numbers import is_integer, is_number
from agentpipe.core.outside import json_text


class Own(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "integer", "number"),
    [
        (1, True, True),
        (Own.ONE, True, True),
        (2**80, True, True),
        (1.0, False, True),
        (float("nan"), False, True),
        (True, False, False),
        ("1", False, False),
        (None, False, False),
        (1j, False, False),
    ],
)
def test_a_bool_is_no_number(value: Any, integer: bool, number: bool) -> None:  # noqa: FBT001
    assert (is_integer(value), is_number(value)) == (integer, number)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("", ""), (None, "null"), ({"a": [1]}, '{"a":[1]}'), (2**80, str(2**80))],
)
def test_a_string_is_its_own_text_and_all_else_is_json(value: Any, text: str) -> None:
    assert json_text(value) == text
