"""Colours of text on a terminal."""

from __future__ import annotations

import pytest

from agentpipe.cli.colour import coloured, shows_colours


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
