"""The argument parser: the program, its commands, and errors in one line."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from agentpipe import __version__
from agentpipe.cli.commands import COMMANDS, GROUPS, module_of
from agentpipe.cli.exit_codes import USAGE
from agentpipe.cli.given_once import GivenOnce
from agentpipe.cli.help_text import EXIT_CODES, epilog
from agentpipe.core.did_you_mean import did_you_mean, nearest

if TYPE_CHECKING:
    from collections.abc import Collection

NAME_WIDTH = max(map(len, COMMANDS))


def parser_for(arguments: Collection[str]) -> argparse.ArgumentParser:
    """The program's parser, with the options of the commands in ``arguments``."""
    parser = _Program(
        prog="agentpipe",
        description="Run AI agents by the thousand and get every result back as one stream.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agentpipe {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in arguments:  # Only list the other commands.
            module = import_module(f"agentpipe.cli.{module_of(name)}")
            module.add(command)
            command.set_defaults(run=module.run)
    return parser


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text[:40]!a}") from None


class _Parser(argparse.ArgumentParser):
    """Prints the error first, in one line."""

    _intermixing = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in (None, "store"):
            self.register("action", name, GivenOnce)
        self.register("type", int, _integer)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{message.removeprefix('argument ')}\nSee: {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Allow options between arguments: ``send NAME -c FILE QUESTION``."""
        # Intermixed parsing would treat an argument after ``--`` as an option.
        plain = self._subparsers is not None or "--" in (args or ()) or "_ARGCOMPLETE" in os.environ
        if self._intermixing or plain:
            return super().parse_known_args(args, namespace)
        self._intermixing = True
        try:
            parsed, extras = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixing = False
        self._refuse_unknown(extras)
        return parsed, extras

    def _refuse_unknown(self, extras: list[str]) -> None:
        for extra in extras:
            option = extra.partition("=")[0]
            if extra.startswith("--") and (near := nearest(option, self._option_string_actions)):
                self.error(f"unknown option {option}: did you mean {near}?")
        if extras:  # Left to the program's parser, the error would name its help.
            self.error(f"unrecognized arguments: {' '.join(extras)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(map(str, action.choices or ()))
        if choices and str(value) not in choices:
            noun = [str(action.metavar).lower(), *action.option_strings][-1]
            self.error(f"unknown {noun} {value!r}: {did_you_mean(value, choices)}")
        super()._check_value(action, value)


class _Program(_Parser):
    """Shows its commands in groups, which argparse cannot."""

    def format_help(self) -> str:
        groups = [line for name, group in GROUPS.items() for line in _group(name, group)]
        hint = "agentpipe COMMAND --help shows the options of a command, with examples."
        return "\n".join(
            [
                self.format_usage(),
                self.description or "",
                "",
                *groups,
                hint,
                "",
                self.epilog or "",
                "",
            ]
        )


def _group(name: str, commands: dict[str, str]) -> list[str]:
    rows = (f"  {command:<{NAME_WIDTH}}  {summary}" for command, summary in commands.items())
    return [f"{name}:", *rows, ""]
