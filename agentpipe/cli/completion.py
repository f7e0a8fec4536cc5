"""``agentpipe completion``: connect a shell to argcomplete, which runs the parser at each Tab."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.exit_codes import OK
from agentpipe.cli.given_once import GivenOnce
from agentpipe.cli.opening import collection_file
from agentpipe.cli.options import add_json
from agentpipe.cli.output import print_json
from agentpipe.errors import AgentpipeError
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

# The parser's metavars for files and folders.
FILES = ("FILE", "PATH", "FOLDER", "TASKS")
SHELLS = ("bash", "zsh", "fish")
# Complete with the program as typed, which may not be on the PATH. argcomplete does not expand its
# tilde, and in fish it runs the first `agentpipe` on the PATH instead.
_AS_TYPED = {
    "${script:-$1}": '"${1/#\\~/$HOME}"',
    "${script:-${words[1]}}": '"${words[1]/#\\~/$HOME}"',
}
_FISH_AS_TYPED = "env (string replace -r '^~' $HOME (commandline -opc)[1])"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    script = _script(args.shell)
    if args.json:
        print_json({"shell": args.shell, "script": script})
    else:
        print(script, end="")  # noqa: T201 - no escapes
    return OK


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, which passes the line in the environment, and exit."""
    from argcomplete import autocomplete
    from argcomplete.finders import safe_actions

    safe_actions.add(GivenOnce)  # It completes values only for actions it knows.
    autocomplete(parser, always_complete_options=False, default_completer=_values)  # type: ignore[arg-type]  # any callable with its arguments works


def _script(shell: str) -> str:
    from argcomplete.shell_integration import shellcode

    # Leave out `-o default`: bash would offer files where nothing matches.
    script = shellcode(
        ["agentpipe"],
        shell=shell,
        complete_arguments=["-o nospace"],
        argcomplete_script=_FISH_AS_TYPED if shell == "fish" else None,
    )
    for theirs, ours in _AS_TYPED.items():
        script = script.replace(theirs, ours)
    return script


def _values(
    prefix: str, action: argparse.Action, parsed_args: argparse.Namespace, **_: object
) -> Iterable[str]:
    """Complete the value of an option or argument without choices."""
    if action.metavar in FILES:
        from argcomplete.completers import FilesCompleter

        return FilesCompleter()(prefix)
    if action.metavar == "COLLECTION" or action.dest == "collection":
        return _collections(parsed_args)
    return ()


def _collections(args: argparse.Namespace) -> list[str]:
    """The collection names in the file, even if other parts of it are invalid."""
    from agentpipe.config.collection import read

    given = getattr(args, "collection_file", None)
    # Shells do not expand the tilde in a line that they complete.
    file = argparse.Namespace(collection_file=given and Path(given).expanduser())
    try:
        collections, _ = read(collection_file(file, Settings.from_env(os.environ)))
    except AgentpipeError:
        return []
    return [each.name for each in collections if each.name and each.name.isprintable()]
