"""An option that selects tasks takes one value, and hardly any option takes an empty one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from agentpipe.cli import main
from agentpipe.cli.commands import COMMANDS
from agentpipe.cli.given_once import GivenOnce
from agentpipe.cli.parser import parser_for

if TYPE_CHECKING:
    from collections.abc import Iterator


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for command in action.choices.values():
                yield from _options(command)
        elif action.option_strings and action.nargs != 0:
            yield action


def test_each_option_with_a_value_is_a_list_or_given_once() -> None:
    lists = {"append", "extend"}
    odd = [
        action.option_strings
        for action in _options(parser_for(COMMANDS))
        if not isinstance(action, GivenOnce) and not _is_list(action, lists)
    ]
    assert odd == []


def _is_list(action: argparse.Action, lists: set[str]) -> bool:
    return any(name in type(action).__name__.lower() for name in lists)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["tail", "--timeout", "0", "--timeout", "30"], "timeout", 30.0),
        (["send", "toys", "q", "-c", "a", "--collection-file=b"], "collection_file", "b"),
        (["dead", "list", "--after", ""], "after", ""),
        (["send", "toys", ""], "question", ""),
    ],
)
def test_how_a_command_works_can_be_overridden(argv: list[str], name: str, value: object) -> None:
    assert getattr(parser_for(COMMANDS).parse_args(argv), name) == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["send", "toys", "--file", "a", "--file", "b"], "--file is given twice: give it once"),
        (["dead", "list", "--outcome", "ok", "--outcome", "limit"], "--outcome is given twice"),
        (["cancel", "--collection", "a", "--collection", "b"], "--collection is given twice"),
        (["cancel", "--queue", "a_0", "--collection", ""], "--collection is empty"),
        (["tail", "--group="], "--group is empty: give it a value, or leave it out"),
        (["web", "--token", ""], "--token is empty"),
        (["dead", "show", ""], "TASK is empty: give it a value, or leave it out"),
        (["why", "a", ""], "TASK is empty"),
        (["show", ""], "TASK is empty"),
        (["purge", ""], "COLLECTION is empty"),
    ],
)
def test_others_are_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[0]
