"""Suggestions of the nearest name."""

from __future__ import annotations

import pytest

from agentpipe.core.did_you_mean import did_you_mean, nearest, unknown, unknown_keys

MANY = [f"name_{number}" for number in range(21)]


@pytest.mark.parametrize(
    ("name", "choices", "otherwise", "expected"),
    [
        ("toyz", ["crew", "toys"], "", "did you mean 'toys'?"),
        ("toyz", ["crew", "toys"], "see the file", "did you mean 'toys'?"),
        (7, ["crew", "toys"], "", "choose from crew, toys"),
        ("x", ["crew", "toys"], "see the file", "see the file"),
        ("x", [], "", "no similar name"),
        ("x", MANY, "", "no similar name"),
        ("x", (name for name in ("a", "b")), "", "choose from a, b"),
    ],
)
def test_a_hint(name: object, choices: list[str], otherwise: str, expected: str) -> None:
    assert did_you_mean(name, choices, otherwise) == expected


def test_nearest_wants_as_much_likeness_as_asked_for() -> None:
    assert nearest("questoin", ["question"], 0.8) == "question"
    assert nearest("quest", ["question"], 0.8) == ""
    assert nearest("quest", ["question"]) == "question"


def test_sentences() -> None:
    said = unknown("collection", "toy", ["toys"], "in this file")
    assert said == "no collection 'toy' in this file: did you mean 'toys'?"
    assert unknown_keys({"argvs": 1, "env": 2, "x": 4}, ("argv", "env")) == [
        "unknown key 'argvs' in config: did you mean 'argv'?",
        "unknown key 'x' in config: choose from argv, env",
    ]
