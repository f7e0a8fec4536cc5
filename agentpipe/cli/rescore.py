"""``agentpipe rescore``: judge the stored answers of a run again, without running agents."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import FAILED, OK, PARTLY
from agentpipe.cli.opening import collections_of, opened_sink, settings_of
from agentpipe.cli.options import add_common, add_run, run_name
from agentpipe.cli.output import print_either, say
from agentpipe.cli.run_notes import no_results_of
from agentpipe.core.run_names import is_run_name
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.config.collection import Collection
    from agentpipe.operations.new_evaluators import NewEvaluators
    from agentpipe.operations.rescore import Rescored, RescoredNames
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser, "required: whose answers")
    parser.add_argument(
        "--evaluators",
        metavar="FILE",
        required=True,
        help="a list of evaluators (JSON or YAML) for every task, or a file of tasks with theirs",
    )
    parser.add_argument(
        "--to-run",
        metavar="NAME",
        type=run_name,
        help="the run of the new results (default: that of --run with -rescored)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Judge the answers, and print the outcome."""
    from agentpipe.operations.rescore import RescoredNames

    if args.run_name is None:
        raise ConfigError("name the run: --run NAME")
    names = RescoredNames(args.run_name, args.to_run or f"{args.run_name}-rescored")
    if not is_run_name(names.to_run):
        raise ConfigError("the run's name is long: name the new one with --to-run")
    if names.run == names.to_run:
        raise ConfigError("--to-run: it is the run itself, whose results stay as they are")
    settings = settings_of(args)
    require_results(args, settings, now=True)
    collections = collections_of(args, settings)
    evaluators = _evaluators(Path(args.evaluators), collections)
    return _report(args, names, asyncio.run(_rescored(names, evaluators, collections, settings)))


def _evaluators(path: Path, collections: tuple[Collection, ...]) -> NewEvaluators:
    """Read the evaluators by the first collection's rules; each answer is judged by its own's."""
    from agentpipe.operations.new_evaluators import read_evaluators

    return read_evaluators(path, collections[0].task_rules, sys.stdin.buffer)


async def _rescored(
    names: RescoredNames,
    evaluators: NewEvaluators,
    collections: tuple[Collection, ...],
    settings: Settings,
) -> Rescored:
    from agentpipe.archive import Archive
    from agentpipe.core import masking
    from agentpipe.operations.rescore import Rescore
    from agentpipe.worker.runners import make_runners

    runners = make_runners(collections, os.environ)
    with Archive.open(settings) as archive, opened_sink(settings) as sink:
        rescore = Rescore(names, evaluators, runners, archive, sink)
        # An id that was used again has several Results: the last one counts.
        results = dict.fromkeys(each.task_id for each in archive.results(run=names.run))
        if not results:
            raise no_results_of(settings, names.run)
        found = (archive.result(task_id) for task_id in results)
        return await rescore.run(filter(None, found), masking.redactor())


def _report(args: argparse.Namespace, names: RescoredNames, done: Rescored) -> int:
    counts = {
        "judged": done.judged,
        "carried": done.carried,
        "known": done.known,
        "failed": done.failed,
    }
    text = ", ".join(f"{number} {name}" for name, number in counts.items())
    print_either(args, {"run": names.to_run, **counts}, f"{names.to_run}: {text}")
    for problem in done.problems:
        say(problem)
    if not done.failed:
        return OK
    return PARTLY if done.judged or done.carried or done.known else FAILED
