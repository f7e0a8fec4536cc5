"""Remedies: every command line named in one of our messages exists."""

from __future__ import annotations

import argparse
import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import agentpipe
from agentpipe.cli.commands import COMMANDS
from agentpipe.cli.parser import parser_for
from agentpipe.core.budgets import HOLDERS, Budget, Spending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.core.budgets import Holder

ROOT = Path(agentpipe.__file__).parent
NAMED = re.compile(r"\bagentpipe ")
# A command ends with its sentence, its clause, or its quotation marks.
LINE = re.compile(NAMED.pattern + r"([a-z][a-z-]*)((?: (?:--?[\w-]+|[\w./:{}=-]+))*)")


def texts_in(tree: ast.AST) -> Iterator[str]:
    """The strings of a module, with a word for each placeholder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )


@cache
def remedies() -> list[tuple[str, str]]:
    found = {
        (match[1], match[2])
        for path in ROOT.rglob("*.py")
        if NAMED.search(source := path.read_text())
        for text in texts_in(ast.parse(source))
        for match in LINE.finditer(text)
    }
    return sorted(pair for pair in found if pair[0] in COMMANDS)


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    (commands,) = _subparsers(parser_for([command]))
    return commands[command]


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[dict[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            yield action.choices


def options_of(command: str, words: list[str]) -> set[str]:
    """Options of the command, and of the action named in ``words``."""
    parser = parser_of(command)
    for choices in _subparsers(parser):
        parser = next((choices[word] for word in words if word in choices), parser)
    return {option for action in parser._actions for option in action.option_strings}  # noqa: SLF001 - as above


@pytest.mark.parametrize(("command", "rest"), remedies())
def test_the_options_of_a_remedy_exist(command: str, rest: str) -> None:
    words = rest.split()
    given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert given <= options_of(command, words), f"agentpipe {command}{rest}"


@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize("cap", [Budget(usd=1.0), Budget(tokens=5), Budget(1.0, 5)])
def test_a_spent_budget_names_a_line_that_parses(kind: Holder, cap: Budget) -> None:
    line = Spending(kind, "crew", cap, usd=2.0, tokens=9).remedy
    program, command, *words = line.replace("USD", "80").replace(" N", " 90").split()
    args = parser_of(command).parse_args(words)
    assert (program, command) == ("agentpipe", "resume")
    assert args.budget_usd or args.budget_tokens
    assert [args.run_name, *args.targets].count("crew") == 1


def test_remedies_with_options_are_found() -> None:
    assert ("resume", " X X") in remedies()
    assert any("--" in rest for _, rest in remedies())
