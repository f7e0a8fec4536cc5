"""Stored configs and command lines contain no credentials."""

from __future__ import annotations

from typing import Any

import pytest

from agentpipe.core.hidden_values import hidden, hidden_words
from agentpipe.core.redaction import Redactor

KNOWN = Redactor(["tok-4711-known"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {"env": {"A": "plain", "B": "${B}", "C": "{{C}}"}},
            {"env": {"A": "***", "B": "${B}", "C": "{{C}}"}},
        ),
        ({"env": {"A": "${A:-fallback}", "B": "x${B}"}}, {"env": {"A": "***", "B": "***"}}),
        ({"headers": {"Authorization": "Bearer abc"}}, {"headers": {"Authorization": "***"}}),
        ({"api_key": "abc", "max_tokens": 100}, {"api_key": "***", "max_tokens": 100}),
        (
            {"credentials": {"user": "u", "list": ["a"]}},
            {"credentials": {"user": "***", "list": ["***"]}},
        ),
        ({"base_url": "https://u:pw@host/x"}, {"base_url": "https://u:***@host/x"}),
        ({"instruction": "say tok-4711-known"}, {"instruction": "say ***"}),
        ({"args": ["--token", "abc", "-v"]}, {"args": ["--token", "***", "-v"]}),
        ({"args": ["--api-key=abc", "x=1"]}, {"args": ["--api-key=***", "x=1"]}),
        (
            [{"model": "openai:gpt", "n": [1, None, True]}],
            [{"model": "openai:gpt", "n": [1, None, True]}],
        ),
        ({"tok-4711-known": 1, 7: "x"}, {"***": 1, "7": "x"}),
    ],
)
def test_a_document_is_as_it_is_without_credentials(value: Any, shown: Any) -> None:
    assert hidden(value, KNOWN) == shown


def test_a_command_line_hides_passwords() -> None:
    words = [
        "agentpipe",
        "send",
        "c",
        "--broker",
        "redis://:pw@h",
        "--metadata",
        "password=x",
        "tok-4711-known",
    ]
    assert hidden_words(words, KNOWN) == [
        "agentpipe",
        "send",
        "c",
        "--broker",
        "redis://:***@h",
        "--metadata",
        "password=***",
        "***",
    ]
