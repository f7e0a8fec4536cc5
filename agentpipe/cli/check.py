"""``agentpipe check``: find everything that is wrong, at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agentpipe.cli import OK, UNREACHABLE, USAGE
from agentpipe.cli.common import (
    add_common,
    collection_file,
    opened_sink,
    opened_store,
    print_json,
    print_text,
    settings_of,
)
from agentpipe.errors import ConfigError, Problem, Unreachable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="the collection file, as with -c")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print each problem with its place; 2 if any is the user's, 4 if only a server is away."""
    args.collection_file = args.file or args.collection_file
    settings = settings_of(args)
    wrong: list[Problem] = []
    away: list[Problem] = []
    attempts: tuple[Callable[[], None], ...] = (
        lambda: _check_collection(args, settings),
        lambda: _open(opened_store(settings)),
        lambda: _open(opened_sink(settings)),
    )
    for attempt in attempts:
        try:
            attempt()
        except ConfigError as error:
            wrong += error.problems
        except Unreachable as error:
            away.append(Problem(str(error)))
    problems = wrong + away
    if args.json:
        print_json({"ok": not problems, "problems": [_as_dict(problem) for problem in problems]})
    else:
        for problem in problems:
            print_text(str(problem))
        print_text("ok" if not problems else f"{len(problems)} problems")
    if wrong:
        return USAGE
    return UNREACHABLE if away else OK


def _check_collection(args: argparse.Namespace, settings: Settings) -> None:
    from agentpipe.collection import load
    from agentpipe.compile import make_runners

    make_runners(load(collection_file(args, settings), settings.max_queue_size), os.environ)


def _open(opening: AbstractContextManager[object]) -> None:
    with opening:
        pass


def _as_dict(problem: Problem) -> dict[str, str | int | None]:
    return {
        "file": problem.file or None,
        "line": problem.line or None,
        "message": problem.message,
    }
