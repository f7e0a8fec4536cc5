"""``agentpipe pause``: pause agents or whole collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.budget_options import budget_of
from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import collections_of, opened_store, settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_either, say, say_where
from agentpipe.core.text import counted

if TYPE_CHECKING:
    import argparse

    from agentpipe.brokers.base import Store
    from agentpipe.operations.pause import Paused
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Add the command's arguments."""
    parser.add_argument("targets", metavar="TARGET", nargs=nargs, help="collection or agent")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Pause claims; running tasks continue, and tasks can still be sent."""
    return change(args, paused=True)


def change(args: argparse.Namespace, *, paused: bool) -> int:
    """Pause or resume the targets, and print what changed."""
    from agentpipe.operations.pause import pause, resume

    settings = settings_of(args)
    if not (args.collection_file or settings.collection_file):
        require_tasks(args, settings)
    say_where(settings)
    with opened_store(settings) as store:
        _declare(args, settings, store)
        if paused:
            done = pause(store, args.targets, paused=True)
        else:
            done = resume(store, args.targets, budget_of(args))
    agents, left = list(done.agents), list(done.still_paused)
    text = f"{counted(len(agents), 'agent')} paused" if paused else _resumed(done)
    print_either(args, {"paused": paused, "agents": agents, "paused_agents": left}, text)
    for spending in done.made:
        say(
            f"collection {spending.name} has a budget of {spending.cap} from now on, where it had "
            "none: what it has cost before does not count"
        )
    if left and not (paused or args.json):
        _say_held(done)
    return OK


def _resumed(done: Paused) -> str:
    held = f", {len(done.still_paused)} still held" if done.still_paused else ""
    return f"{counted(done.free, 'agent')} resumed{held}"


def _say_held(done: Paused) -> None:
    for spending in done.spent:
        say(f"still held: {spending.reason}; {spending.remedy} allows more")
    if not done.spent:
        left = ", ".join(done.still_paused)
        say(f"still paused, on their own or with their collection: {left}")


def _declare(args: argparse.Namespace, settings: Settings, store: Store) -> None:
    """Declare the file's collections, so that one can be paused before its first task."""
    from agentpipe.sending.dispatcher import Dispatcher

    depths = store.stats().queues
    known = {depth.queue for depth in depths} | {depth.collection for depth in depths}
    if args.collection_file or (settings.collection_file and set(args.targets) - known):
        Dispatcher(store).declare(collections_of(args, settings))
