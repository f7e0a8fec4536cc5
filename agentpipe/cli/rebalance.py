"""``agentpipe rebalance``: move waiting tasks from removed agents to the remaining ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import FULL, OK, PARTLY
from agentpipe.cli.opening import declare_named, named_collections, opened_store, settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_either, say_where
from agentpipe.core.text import counted

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.rebalance import Rebalanced


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("collection", metavar="COLLECTION", help="name of a collection")
    parser.add_argument(
        "--dry-run", action="store_true", help="only say how many tasks would be moved"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Move the tasks; return 5 if some have no room, 3 if none has."""
    from agentpipe.operations.rebalance import plan, rebalance
    from agentpipe.sending.dispatcher import Dispatcher

    settings = settings_of(args)
    require_tasks(args, settings)
    say_where(settings)
    with opened_store(settings) as store:
        if args.dry_run:
            done = plan(store, args.collection, named_collections(args, settings))
        else:
            declare_named(Dispatcher(store), args, settings)
            done = rebalance(store, args.collection)
    print_either(args, done.to_dict(), _text(done))
    if not done.left:
        return OK
    return PARTLY if done.moved else FULL


def _text(done: Rebalanced) -> str:
    if not done.agents:
        return f"nothing to move: no task waits with an agent that {done.collection} has no longer"
    verb = "would be moved" if done.dry_run else "moved"
    text = f"{counted(done.moved, 'task')} {verb} from {counted(len(done.agents), 'removed agent')}"
    if done.left:
        text += (
            f"; {done.left:,} left: the agents that there are have no room for more. "
            "Start workers, or raise max_queue_size, and run it again"
        )
    return text
