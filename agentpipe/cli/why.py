"""``agentpipe why``: explain where tasks are and why they are not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.common import add_common, encodable, print_either, say_where, settings_of
from agentpipe.cli.exit_codes import FAILED, OK, PARTLY
from agentpipe.cli.home import require_tasks
from agentpipe.core.text import one_line

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.explain import Explanation


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("tasks", metavar="TASK", nargs="+", help="task ids")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print an explanation of each task."""
    from agentpipe.operations.explain.lookup import look_up

    settings = settings_of(args)
    require_tasks(args, settings)
    if not args.json:
        say_where(settings)
    known = []
    for each in look_up(map(encodable, args.tasks), settings):
        print_either(args, each.to_dict(), *_lines(each))
        known.append(each.state != "unknown")
    if all(known):
        return OK
    return PARTLY if any(known) else FAILED


def _lines(each: Explanation) -> tuple[str, str]:
    return f"{one_line(each.task_id, 256)}: {each.sentence}", f"next: {each.next}"
