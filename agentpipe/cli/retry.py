"""``agentpipe retry``: send the failed tasks of a run again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import FAILED, FULL, OK, PARTLY
from agentpipe.cli.opening import declare_named, opened_store, settings_of
from agentpipe.cli.options import add_common, add_on_full, add_run
from agentpipe.cli.output import print_either, print_json, print_text, say
from agentpipe.cli.run_notes import no_results_of
from agentpipe.core.text import one_line
from agentpipe.errors import ConfigError
from agentpipe.operations.judging.reading import ResultsOfRuns
from agentpipe.operations.retry import USUAL, Retried, Retry, checked_outcomes, ended_badly, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from agentpipe.operations.retry import Ended
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser, "required: whose tasks")
    parser.add_argument(
        "--outcome",
        metavar="OUTCOME,...",
        default=",".join(USUAL),
        help=f"only those that ended so (default: {','.join(USUAL)})",
    )
    parser.add_argument(
        "--error", metavar="TEXT", default="", help="only those with this text in the error"
    )
    parser.add_argument("--dry-run", action="store_true", help="list them, send nothing")
    add_on_full(parser)
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Send the tasks again, and print the counts."""
    if args.run_name is None:
        raise ConfigError("name the run: --run NAME")
    outcomes = checked_outcomes(args.outcome)
    settings = settings_of(args)
    require_results(args, settings)
    found = ResultsOfRuns(settings, (args.run_name,))
    ended = ended_badly(found, outcomes, args.error)
    if not found.number:
        raise no_results_of(settings, args.run_name)
    if args.dry_run:
        return _list(args, ended)
    return _report(args, _send(args, settings, ended) if ended else Retried())


def _list(args: argparse.Namespace, ended: Sequence[Ended]) -> int:
    if args.json:
        print_json({"tasks": list(shown(ended))})
        return OK
    for each in shown(ended):
        print_text(one_line(f"{each['task_id']} {each['outcome']}", 400))
    say(f"{len(ended):,} would be sent")
    return OK


def _send(args: argparse.Namespace, settings: Settings, ended: Sequence[Ended]) -> Retried:
    from agentpipe.sending.dispatcher import Dispatcher

    with opened_store(settings) as store:
        dispatcher = Dispatcher(store)
        declare_named(dispatcher, args, settings)
        return Retry(store, dispatcher, on_full=args.on_full).run(ended)


def _report(args: argparse.Namespace, done: Retried) -> int:
    counts = {
        "accepted": len(done.task_ids),
        "duplicates": len(done.duplicate_ids),
        "refused": done.refused,
        "failed": done.failed,
    }
    text = ", ".join(f"{number} {name}" for name, number in counts.items())
    print_either(args, {**counts, "task_ids": done.task_ids}, text)
    for problem in done.problems:
        say(problem)
    if done.refused:
        say("the rest found every queue full: repeat the command, or add --on-full wait")
    return _code(done)


def _code(done: Retried) -> int:
    if not done.refused and not done.failed:
        return OK
    if done.task_ids or done.duplicate_ids:
        return PARTLY
    return FULL if done.refused else FAILED
