"""``agentpipe serve-env``: serve a collection to prime-rl as an environment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import collection_file, settings_of
from agentpipe.cli.options import add_address, add_common
from agentpipe.cli.output import print_either, say
from agentpipe.connections.url import is_loopback
from agentpipe.primerl.server import EnvServer

if TYPE_CHECKING:
    import argparse

PORT = 5000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_address(parser, PORT)
    parser.add_argument(
        "--name",
        default="",
        help="name of this environment: its tasks' ids begin with it (default: the collection's)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    settings = settings_of(args)

    def announce(address: str) -> None:
        print_either(args, {"address": address}, address)

    if not is_loopback(args.host):
        say(
            f"warning: anyone who reaches {args.host} can run tasks and read their results: the "
            "protocol has neither a password nor encryption"
        )
    with EnvServer.open(
        collection_file(args, settings), name=args.name, settings=settings
    ) as server:
        asyncio.run(server.serve(args.host, args.port, announce))
    return OK
