"""``agentpipe start-workers``: MCP-Universe's name for ``work``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.clean_tasks import clean
from agentpipe.cli.common import collection_file
from agentpipe.cli.seed import add_seed, seed_settings
from agentpipe.cli.work import serve_here
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--clean", action="store_true", help="first cancel all that waits")
    parser.add_argument(
        "--max-queue-size",
        metavar="N",
        type=int,
        help="of collections that do not say (default: 100)",
    )
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Clean up if asked to, then run workers until told to end."""
    if args.max_queue_size is not None and args.max_queue_size < 1:
        raise ConfigError("--max-queue-size is at least 1")
    settings = seed_settings(args)
    if args.clean:
        clean(collection_file(args, settings), settings)
    return serve_here(args, settings)
