"""``agentpipe serve-env``: a collection as an environment of prime-rl's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from agentpipe.cli.common import add_common, collection_file, port, print_either, say, settings_of
from agentpipe.cli.exit_codes import OK
from agentpipe.primerl.server import EnvServer

if TYPE_CHECKING:
    import argparse

HOST, PORT = "127.0.0.1", 5000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--host", default=HOST, help=f"address to listen on (default: {HOST}, this machine only)"
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=port,
        default=PORT,
        help=f"port, 0 for any free one (default: {PORT})",
    )
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

    if not _is_loopback(args.host):
        say(
            f"warning: whoever reaches {args.host} can have agents run tasks and read what they "
            "did: the protocol has neither a password nor encryption"
        )
    with EnvServer.open(
        collection_file(args, settings), name=args.name, settings=settings
    ) as server:
        asyncio.run(server.serve(args.host, args.port, announce))
    return OK


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
