"""``agentpipe clean-tasks``: MCP-Universe's name for a ``purge`` of a file's collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli import OK
from agentpipe.cli.common import (
    collection_file,
    opened_store,
    print_json,
    print_text,
    say,
    say_where,
)
from agentpipe.cli.seed import add_seed, seed_settings

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Answer all that waits with ``cancelled``."""
    settings = seed_settings(args)
    say_where(settings)
    number = clean(collection_file(args, settings), settings)
    if args.json:
        print_json({"purged": number})
    else:
        print_text(f"{number} tasks answered `cancelled`; those that run finish")
    return OK


def clean(path: Path, settings: Settings) -> int:
    """The same; the results wait in the outbox for workers, if the sink is away."""
    from agentpipe.config.collection import load
    from agentpipe.errors import Unreachable
    from agentpipe.operations.cancel import purge
    from agentpipe.operations.delivery import deliver
    from agentpipe.sinks import open_sink

    names = [collection.name for collection in load(path)]
    with opened_store(settings) as store:
        number = sum(purge(store, name) for name in names)
        if number:
            try:
                sink = open_sink(settings)
                deliver(store, sink, settings.lease_s)
                sink.close()
            except Unreachable as error:
                say(f"the results wait for workers to deliver them: {error}")
    return number
