"""``agentpipe check``: report all problems of a collection, or how files run."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.cli.exit_codes import OK, UNREACHABLE, USAGE
from agentpipe.cli.opening import collection_file, settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_json, print_text, say
from agentpipe.core.text import counted, encodable
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.errors import Problem
    from agentpipe.operations.project.survey import Surveyed


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="collection file, as with -c; or tasks, agents, benchmarks and folders of them",
    )
    parser.add_argument(
        "--servers",
        action="store_true",
        help="start each MCP server of the collection's agents once, and say which fails and why",
    )
    add_run_code(parser)
    add_common(parser)


def add_run_code(parser: argparse.ArgumentParser) -> None:
    """Add ``--run-code``."""
    parser.add_argument(
        "--run-code",
        action="store_true",
        help="import the Python that the files name, which runs it; else it is only read",
    )


def run(args: argparse.Namespace) -> int:
    """Check one collection and its servers, or survey files."""
    from agentpipe.operations.project import survey

    paths = [Path(path) for path in args.paths]
    if survey.is_for_collection(paths):
        return _check(args)
    if args.servers:
        raise ConfigError("--servers takes one collection file: the contexts are there")
    return _survey(args, paths)


def _check(args: argparse.Namespace) -> int:
    """Print all problems; return 2 if a config is invalid, 4 if only a server is unreachable."""
    from agentpipe.operations.check import check

    args.collection_file = next(iter(args.paths), args.collection_file)
    settings = settings_of(args)
    file = partial(collection_file, args, settings)
    found = check(file, settings, os.environ, servers=args.servers)
    problems = [*found.invalid, *found.unreachable]
    if args.json:
        given = str(args.collection_file)
        listed = [_as_dict(_with_absolute_file(each, given)) for each in problems]
        print_json({"ok": not problems, "problems": listed, "notes": list(found.notes)})
    else:
        for problem in problems:
            print_text(str(problem))
        for note in found.notes:
            say(note)
        print_text(counted(len(problems), "problem") if problems else "ok")
    if found.invalid:
        return USAGE
    return UNREACHABLE if found.unreachable else OK


def _survey(args: argparse.Namespace, paths: list[Path]) -> int:
    """Print how each file runs; return 2 if one does not."""
    from agentpipe.operations.project.survey import NO, RUNS, survey

    found = []
    for each in survey(paths, os.environ, run_code=args.run_code):
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
    for problem in (*each.problems, *each.hidden):
        print_text(f"  {problem}")


def _survey_as_dict(found: list[Surveyed], totals: dict[str, int]) -> dict[str, Any]:
    problems = [problem for each in found for problem in each.problems]
    return {
        "ok": not problems,
        "problems": list(map(_as_dict, problems)),
        "files": list(map(file_as_dict, found)),
        "totals": totals,
        "notes": [encodable(str(note)) for each in found for note in each.hidden],
    }


def file_as_dict(each: Surveyed) -> dict[str, Any]:
    """The JSON of one surveyed file."""
    return {
        "file": encodable(each.file),
        "kind": each.kind,
        "runs": each.runs,
        "reasons": list(map(encodable, each.reasons)),
    }


def _with_absolute_file(problem: Problem, given: str) -> Problem:
    """Make the path absolute for programs that run elsewhere; keep the collection file as given."""
    if problem.file in ("", given):
        return problem
    return replace(problem, file=os.path.abspath(problem.file))  # noqa: PTH100 - keeps symlinks


def _as_dict(problem: Problem) -> dict[str, str | int | None]:
    return {
        "file": encodable(problem.file) or None,
        "line": problem.line or None,
        "message": encodable(problem.message),
    }
