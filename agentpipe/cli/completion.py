"""``agentpipe completion``: a script for the shell, made of the parser that the commands use."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from agentpipe.cli import OK, whole_parser
from agentpipe.cli.common import collection_file, print_json
from agentpipe.cli.shells import SCRIPTS, Option, Place
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# How the parser's metavars call what lies on the disk.
FILES = ("FILE", "PATH", "FOLDER", "TASKS")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help="bash, zsh or fish")
    parser.add_argument(
        "--collections",
        action="store_true",
        help="print the names in the collection file instead, as the scripts ask for them",
    )
    parser.add_argument(
        "-c",
        "--collection-file",
        metavar="FILE",
        help="that file (default: $AGENT_COLLECTION_CONFIG_FILE)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the script, or the names."""
    if args.collections:
        names = _collections(args)
        if args.json:
            print_json({"collections": names})
        else:
            print("".join(f"{name}\n" for name in names), end="")  # noqa: T201 - for a script
        return OK
    script = SCRIPTS[args.shell](list(places(whole_parser())))
    if args.json:
        print_json({"shell": args.shell, "script": script})
    else:
        print(script, end="")  # noqa: T201 - each character as it is
    return OK


def _collections(args: argparse.Namespace) -> list[str]:
    """Whatever else may be wrong with the file."""
    from agentpipe.config.collection import read

    settings = Settings.from_env(os.environ)
    collections, _ = read(collection_file(args, settings))
    return [each.name for each in collections if each.name]


def places(parser: argparse.ArgumentParser, words: str = "") -> Iterator[Place]:
    """The parser's place, and those of its commands."""
    actions = parser._actions  # noqa: SLF001 - argparse has no other way
    below = [each for each in actions if isinstance(each, argparse._SubParsersAction)]  # noqa: SLF001
    options = tuple(_option(each) for each in actions if each not in below)
    commands = {
        choice.dest: choice.help or ""
        for each in below
        for choice in each._choices_actions  # noqa: SLF001 - likewise
    }
    yield Place(words, commands, options)
    for each in below:
        for name, command in each.choices.items():
            yield from places(command, f"{words} {name}".strip())


def _option(action: argparse.Action) -> Option:
    return Option(
        tuple(action.option_strings),
        tuple(map(str, action.choices or ())),
        action.metavar in FILES,
        action.metavar == "COLLECTION" or action.dest == "collection",
        action.nargs != 0,
        (action.help or "").replace("%%", "%"),
    )
