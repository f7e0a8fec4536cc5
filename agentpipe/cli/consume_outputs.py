"""``agentpipe consume-outputs``: MCP-Universe's name for ``tail`` with MCP-Universe's group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.mcp_universe import add_options, settings_of
from agentpipe.cli.options import seconds
from agentpipe.cli.tail import follow
from agentpipe.connections.environment import PEER_GROUP

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--max-messages", dest="limit", metavar="N", type=int, help="stop after N results"
    )
    parser.add_argument(
        "--timeout", metavar="S", type=seconds, help="stop after S seconds without a record"
    )
    add_options(parser)
    parser.set_defaults(
        start="beginning",
        group=PEER_GROUP,
        collection=None,
        outcome=None,
        run_name=None,
        commit_every=None,
    )


def run(args: argparse.Namespace) -> int:
    """Print results until the limit, the timeout or Ctrl-C."""
    return follow(args, settings_of(args))
