"""Starts and stops the servers: ``python -m brokers.launch start redis``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from brokers.errors import LaunchError
from brokers.ports import is_free
from brokers.server_kafka import KafkaServer
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.server import Server

SERVERS: Mapping[str, type[Server]] = {
    each.kind: each for each in (RedisServer, RabbitServer, KafkaServer)
}
FOLDER = Path(".agentpipe/servers")
_MANAGEMENT_OFFSET = 10_000
_PORTS = range(1, 65_536)
_TOPIC = "agent-task-mq"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    arguments = parser().parse_args(argv)
    try:
        print(arguments.action(arguments), file=sys.stderr)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m brokers.launch", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for action in (start, stop, drop, status):
        words = action.__doc__
        command = commands.add_parser(action.__name__, help=words, description=words)
        command.set_defaults(action=action)
        if action is not status:
            command.add_argument("kind", choices=SERVERS)
            command.add_argument("--data", type=Path, help=f"its folder (default: {FOLDER}/KIND)")
        if action is start:
            command.add_argument("--port", type=_port, help="where it listens on 127.0.0.1")
            words = "RabbitMQ's management API (default: 10,000 above the port)"
            command.add_argument("--management-port", type=_port, help=words)
    return top


def start(arguments: argparse.Namespace) -> str:
    """Start a server in the background, and print the setting that names it."""
    server = _server(arguments)
    before = server.running
    if arguments.port not in (None, server.port):
        raise LaunchError(f"{server.kind} runs on port {server.port} already: stop it first")
    server.start()
    print(_setting(server), flush=True)
    return f"{server.kind} {'runs already' if before else 'runs'}: {_location(server)}"


def stop(arguments: argparse.Namespace) -> str:
    """Stop a server, and keep its data."""
    server = _server(arguments)
    if not server.running:
        return f"{server.kind} does not run in {server.folder}"
    server.stop()
    return f"{server.kind} is stopped; its data are in {server.folder}"


def drop(arguments: argparse.Namespace) -> str:
    """Stop a server, and remove its data."""
    server = _server(arguments)
    if not server.folder.exists():
        return f"{server.kind} has no data in {server.folder}"
    server.drop()
    return f"{server.kind} is stopped, and {server.folder} is removed"


def status(_: argparse.Namespace) -> str:
    """Say which servers of the usual folders run, and where."""
    lines = []
    for kind, server_class in SERVERS.items():
        server = server_class(FOLDER / kind, environ=os.environ)
        if server.running:
            lines.append(f"{kind} runs: {_location(server)}")
        elif server.folder.exists():
            lines.append(f"{kind} is stopped; its data are in {server.folder}")
        else:
            lines.append(f"{kind} is not here")
    return "\n".join(lines)


def _server(arguments: argparse.Namespace) -> Server:
    server_class = SERVERS[arguments.kind]
    folder = arguments.data or FOLDER / arguments.kind
    port = getattr(arguments, "port", None) or server_class.default_port
    if server_class is not RabbitServer:
        return server_class(folder, port, environ=os.environ, detached=True)
    return RabbitServer(
        folder,
        port,
        environ=os.environ,
        detached=True,
        management=True,
        management_port=getattr(arguments, "management_port", None) or _management_port(port),
    )


def _management_port(port: int) -> int | None:
    """The default port, or None (any free port) if it is taken."""
    usual = port + _MANAGEMENT_OFFSET
    return usual if usual in _PORTS and is_free(usual) else None


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else 0
    if port not in _PORTS:
        raise argparse.ArgumentTypeError(f"invalid port {text!r}: give a number from 1 to 65535")
    return port


def _setting(server: Server) -> str:
    """The shell line that makes agentpipe use the server."""
    if isinstance(server, KafkaServer):
        return f"export AGENTPIPE_SINK={server.url}/{_TOPIC}"
    return f"export AGENTPIPE_BROKER={server.url}"


def _location(server: Server) -> str:
    words = [f"port {server.port}", f"folder {server.folder}"]
    if isinstance(server, RabbitServer) and server.management_port:
        words.insert(1, f"management {server.management_url}")
    return ", ".join(words)


if __name__ == "__main__":
    sys.exit(main())
