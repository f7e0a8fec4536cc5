"""``agentpipe why``: explain where tasks are and why they are not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import FAILED, OK, PARTLY
from agentpipe.cli.known_runs import refuse_unknown_run
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common, add_run
from agentpipe.cli.output import print_either, say, say_where
from agentpipe.core.text import encodable, printable
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.explain import Explanation
    from agentpipe.settings import Settings

# Most tasks of a run that are explained.
MOST = 20


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("tasks", metavar="TASK", nargs="*", help="task ids")
    add_run(parser, f"unsettled tasks of this run, {MOST} at most")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print an explanation of each task."""
    from agentpipe.operations.explain.lookup import look_up

    if bool(args.tasks) == bool(args.run_name):
        raise ConfigError("give task ids, or --run NAME")
    settings = settings_of(args)
    require_tasks(args, settings)
    if not args.json:
        say_where(settings)
    refuse_unknown_run(settings, args.run_name)
    known = []
    for each in look_up(map(encodable, _wanted(args, settings)), settings):
        print_either(args, each.to_dict(), *_lines(each))
        known.append(each.state != "unknown")
    if all(known):
        return OK
    return PARTLY if any(known) else FAILED


def _wanted(args: argparse.Namespace, settings: Settings) -> list[str]:
    if args.tasks:
        return list(args.tasks)
    from agentpipe.operations.explain.lookup import unsettled_of

    found = unsettled_of(args.run_name, settings)
    if not found:
        say(f"run {args.run_name} has no unsettled tasks here")
    elif len(found) > MOST:
        say(f"{len(found):,} tasks of run {args.run_name} are unsettled, these are {MOST} of them")
    return found[:MOST]


def _lines(each: Explanation) -> tuple[str, str]:
    return f"{printable(each.task_id, keep='')}: {each.sentence}", f"next: {each.next}"
