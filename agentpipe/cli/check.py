"""``agentpipe check``: find everything that is wrong at once, and say how files run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.cli import OK, UNREACHABLE, USAGE
from agentpipe.cli.common import (
    add_common,
    collection_file,
    encodable,
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

    from agentpipe.operations.project.survey import Surveyed
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="a collection file, as with -c; or tasks, agents, benchmarks and folders of them",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Check one collection and its servers, or tell of each file how it runs."""
    from agentpipe.operations.project import survey

    paths = [Path(path) for path in args.paths]
    if survey.is_for_collection(paths):
        return _check(args)
    return _survey(args, paths)


def _survey(args: argparse.Namespace, paths: list[Path]) -> int:
    """Print how each file runs; 2 if any does not."""
    from agentpipe.operations.project.survey import NO, RUNS, survey

    found = []
    for each in survey(paths, os.environ):
        found.append(each)
        if not args.json:
            _print_file(each)
    totals = {runs: sum(each.runs == runs for each in found) for runs in RUNS}
    if args.json:
        print_json(_survey_as_dict(found, totals))
    else:
        print_text(", ".join(f"{count} {runs}" for runs, count in totals.items()))
    return USAGE if totals[NO] else OK


def _print_file(each: Surveyed) -> None:
    notes = f": {'; '.join(each.notes)}" if each.notes else ""
    print_text(f"{each.runs:<12} {each.file} ({each.kind}){notes}")
    for problem in each.problems:
        print_text(f"  {problem}")


def _survey_as_dict(found: list[Surveyed], totals: dict[str, int]) -> dict[str, Any]:
    problems = [problem for each in found for problem in each.problems]
    files = [
        {
            "file": encodable(each.file),
            "kind": each.kind,
            "runs": each.runs,
            "reasons": list(map(encodable, each.reasons)),
        }
        for each in found
    ]
    return {
        "ok": not problems,
        "problems": [_as_dict(problem) for problem in problems],
        "files": files,
        "totals": totals,
    }


def _check(args: argparse.Namespace) -> int:
    """Print each problem with its place; 2 if any is the user's, 4 if only a server is away."""
    args.collection_file = next(iter(args.paths), args.collection_file)
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
        print_text(_sum_of(problems))
    if wrong:
        return USAGE
    return UNREACHABLE if away else OK


def _sum_of(problems: list[Problem]) -> str:
    if not problems:
        return "ok"
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _check_collection(args: argparse.Namespace, settings: Settings) -> None:
    """The file, and what is named by whatever of it can be read."""
    from agentpipe.config.collection import read, resolve_contexts
    from agentpipe.sending.scheduler import check_files
    from agentpipe.worker.broker import make_runners

    collections, problems = read(collection_file(args, settings), settings.max_queue_size)
    # One agent tells of all; a wrong number might be of any size.
    complete = [replace(each, number=1) for each in collections if each.config_file != Path()]
    looks = (
        lambda: resolve_contexts(collections, os.environ),
        lambda: make_runners(complete, os.environ),
        lambda: check_files(collections),
    )
    for look in looks:
        try:
            look()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(_in_order(problems))


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Each once, file by file as they came, by their lines."""
    files = list(dict.fromkeys(each.file for each in problems))
    return sorted(dict.fromkeys(problems), key=lambda each: (files.index(each.file), each.line))


def _open(opening: AbstractContextManager[object]) -> None:
    with opening:
        pass


def _as_dict(problem: Problem) -> dict[str, str | int | None]:
    return {
        "file": encodable(problem.file) or None,
        "line": problem.line or None,
        "message": encodable(problem.message),
    }
