"""Colours of text on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from agentpipe.cli.colour import coloured, shows_colours
from agentpipe.tui.terminal import console


def test_outcomes_and_states_are_coloured_and_counts_of_zero_are_not() -> None:
    assert (
        coloured("ok 3  crashed 0  dead 2")
        == "\x1b[32mok\x1b[0m 3  crashed 0  \x1b[31mdead\x1b[0m 2"
    )
    plain = "token ok_agent:ok 4 undead"
    assert coloured(plain) == plain


@pytest.mark.parametrize(
    ("environ", "terminal", "shown"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb", "NO_COLOR": ""}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, False, False),
    ],
)
def test_only_a_terminal_that_takes_them_gets_colours(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, terminal: bool, shown: bool
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert shows_colours() is shown


@pytest.mark.parametrize(
    ("environ", "is_terminal", "expected"),
    [
        ({}, True, "\x1b[1;31mbad\x1b[0m\n"),
        ({"NO_COLOR": "1"}, True, "bad\n"),
        ({"FORCE_COLOR": "1"}, False, "bad\n"),
        ({"TTY_COMPATIBLE": "1"}, False, "bad\n"),
    ],
)
def test_printed_lines_have_no_style_without_a_terminal_or_with_no_color(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, is_terminal: bool, expected: str
) -> None:
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **environ}.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    console(stream).print(Text("bad", "bold red"))
    assert stream.getvalue() == expected
