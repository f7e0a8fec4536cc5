"""``agentpipe clean-tasks``: MCP-Universe's name for ``purge`` of a file's collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.exit_codes import OK
from agentpipe.cli.mcp_universe import add_options, settings_of
from agentpipe.cli.opening import collection_file, opened_store
from agentpipe.cli.output import say, say_where
from agentpipe.cli.purge import print_purged

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Cancel all waiting tasks of the file's collections."""
    settings = settings_of(args)
    say_where(settings)
    print_purged(args, clean(collection_file(args, settings), settings))
    return OK


def clean(path: Path, settings: Settings) -> int:
    """Purge the file's collections; if the sink is down, workers forward the results later."""
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
                say(f"sink unreachable, a worker will forward the results: {error}")
    return number
