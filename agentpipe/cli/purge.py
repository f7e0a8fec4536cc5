"""``agentpipe purge``: cancel all waiting tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.known_collections import refuse_unknown_collection
from agentpipe.cli.opening import opened_sink, opened_store, settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_either, say_where
from agentpipe.core.text import counted

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "collection", metavar="COLLECTION", nargs="?", help="only tasks of this collection"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Purge tasks and forward their results, in case no worker is running."""
    from agentpipe.operations.cancel import purge
    from agentpipe.operations.delivery import deliver

    settings = settings_of(args)
    require_tasks(args, settings)
    refuse_unknown_collection(args, settings, args.collection)
    say_where(settings)
    with opened_store(settings) as store, opened_sink(settings) as sink:
        purged = purge(store, args.collection)
        deliver(store, sink, settings.lease_s)
    print_purged(args, purged)
    return OK


def print_purged(args: argparse.Namespace, number: int) -> None:
    """Print how many tasks were cancelled."""
    text = f"{counted(number, 'task')} answered `cancelled`; running tasks go on"
    print_either(args, {"purged": number}, text)
