"""The help: every command is listed and fits a terminal, every example is a command line."""

from __future__ import annotations

import shlex
from itertools import takewhile

import pytest

from agentpipe.cli import main
from agentpipe.cli.commands import COMMANDS
from agentpipe.cli.exit_codes import USAGE
from agentpipe.cli.help_text import EXAMPLES
from agentpipe.cli.parser import parser_for

WHOLE = parser_for(COMMANDS)
SHELL = ("|", ">")


def test_the_help_lists_each_command_once_within_80_columns() -> None:
    lines = WHOLE.format_help().splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert [line for line in lines if len(line) >= 80] == []


def test_without_a_command_the_help_is_printed_as_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == WHOLE.format_help()


@pytest.mark.parametrize("example", [each for group in EXAMPLES.values() for each in group])
def test_an_example_is_a_command_line(example: str) -> None:
    words = shlex.split(example)
    assert WHOLE.parse_args(list(takewhile(lambda word: word not in SHELL, words))).run


def test_examples_belong_to_their_command() -> None:
    assert set(EXAMPLES) <= set(COMMANDS)
    for command, examples in EXAMPLES.items():
        assert {each.split()[0] for each in examples} == {command}
