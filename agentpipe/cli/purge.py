"""``agentpipe purge``: answer everything that waits with ``cancelled``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli import OK
from agentpipe.cli.common import (
    add_common,
    opened_sink,
    opened_store,
    print_json,
    print_text,
    say_where,
    settings_of,
)

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("collection", metavar="COLLECTION", nargs="?", help="only this one's tasks")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Purge, and carry the results to the sink, for no worker may be running."""
    from agentpipe.operations.cancel import purge
    from agentpipe.operations.delivery import deliver

    settings = settings_of(args)
    say_where(settings)
    with opened_store(settings) as store, opened_sink(settings) as sink:
        purged = purge(store, args.collection)
        deliver(store, sink, settings.lease_s)
    if args.json:
        print_json({"purged": purged})
    else:
        print_text(f"{purged} tasks answered `cancelled`; those that run finish")
    return OK
