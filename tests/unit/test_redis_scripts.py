"""Tests of the Redis store's scripts as text; the server runs them in the conformance tests."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from agentpipe.brokers.measures import BUCKETS_S, WIDTH
from agentpipe.brokers.redis.scripts import PORTION, Scripts

SETTLING = ("settle", "settle_and_claim")


def code_of(name: str, mark: str = "{crew}") -> str:
    """The script without its comments."""
    return re.sub("--.*", "", Scripts(mark)[name].text)


@pytest.mark.parametrize(
    ("file", "name", "number"), [("measures.lua", "WIDTH", WIDTH), ("keys.lua", "PORTION", PORTION)]
)
def test_numbers_are_the_same_in_python(file: str, name: str, number: int) -> None:
    text = (resources.files("agentpipe.brokers.redis") / file).read_text()
    assert re.findall(rf"^local {name} = (\d+)", text, re.MULTILINE) == [str(number)]


@pytest.mark.parametrize("name", SETTLING)
def test_the_histograms_have_the_buckets_of_python(name: str) -> None:
    (bounds,) = re.findall(r"bounds or \{(.*)\}", code_of(name))
    assert tuple(map(float, bounds.split(","))) == BUCKETS_S


def test_numbers_and_keys_stand_where_they_are_used() -> None:
    code = code_of("settle_and_claim")
    assert "call('HSET', '{crew}:payloads', id" in code
    assert "queues[queue][2] - queues[queue][9]" in code or "queue[2] - queue[9]" in code
    assert not re.search(r"(?<!')\b(TASKS|N_WAITING|PORTION)\b", code)


def test_words_of_commands_are_no_constants() -> None:
    code = code_of("claim")
    assert "'LIMIT', 0, 500)" in code


@pytest.mark.parametrize(
    ("mark", "literal"),
    [
        ("{it's}", r"'{it\039s}:tasks'"),
        ("{a\\b}", r"'{a\092b}:tasks'"),
        ("{a\nb}", r"'{a\010b}:tasks'"),
        ("{\N{LATIN SMALL LETTER E WITH ACUTE}}", r"'{\195\169}:tasks'"),
        ("{a--b}", "'{a--b}:tasks'"),
    ],
)
def test_any_prefix_is_a_string_of_lua(mark: str, literal: str) -> None:
    assert literal in Scripts(mark)["claim"].text


def test_stores_share_the_scripts_that_end_no_workers() -> None:
    one, other = Scripts("{one}"), Scripts("{other}")
    assert one["offer"].sha == other["offer"].sha
    assert one["claim"].sha != other["claim"].sha
    assert {each.sha for each in one.ending()} & {each.sha for each in other.ending()} == set()
