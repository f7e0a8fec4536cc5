"""``agentpipe start-workers``: MCP-Universe's name for ``work``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.clean_tasks import clean
from agentpipe.cli.mcp_universe import add_options, settings_of
from agentpipe.cli.opening import collection_file
from agentpipe.cli.options import refuse_below_one
from agentpipe.cli.work import serve_here

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--clean", action="store_true", help="cancel all waiting tasks first")
    parser.add_argument(
        "--max-queue-size",
        metavar="N",
        type=int,
        help="max_queue_size of collections without one (default: 100)",
    )
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Cancel waiting tasks with ``--clean``, then run workers."""
    refuse_below_one("--max-queue-size", args.max_queue_size)
    settings = settings_of(args)
    if args.clean:
        clean(collection_file(args, settings), settings)
    return serve_here(args, settings)
