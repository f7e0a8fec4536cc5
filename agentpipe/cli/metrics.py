"""``agentpipe metrics``: a Prometheus exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_address, add_common
from agentpipe.cli.output import print_either, say
from agentpipe.cli.signals import ending
from agentpipe.connections.url import host_in_url
from agentpipe.core.distribution import needs_extra

if TYPE_CHECKING:
    import argparse
    from wsgiref.simple_server import WSGIServer

    from agentpipe.settings import Settings

PORT = 9808


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_address(parser, PORT)
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Answer scrapes until a signal."""
    settings = settings_of(args)
    require_tasks(args, settings)
    with ending():
        _serve(args, _server(args, settings))
    return OK


def _serve(args: argparse.Namespace, server: WSGIServer) -> None:
    url = f"http://{host_in_url(args.host)}:{server.server_port}/metrics"
    print_either(args, {"url": url}, f"metrics on {url}")
    server.serve_forever()


def _server(args: argparse.Namespace, settings: Settings) -> WSGIServer:
    from agentpipe.brokers import open_to_read

    with needs_extra("metrics need prometheus-client", "metrics", "prometheus_client"):
        from agentpipe.metrics.server import app_of, serve
        from agentpipe.metrics.snapshots import SnapshotThread
    snapshots = SnapshotThread(lambda: open_to_read(settings), say)
    server = serve(app_of(snapshots.latest), args.host, args.port)
    snapshots.start()
    snapshots.refuse_mistakes()
    return server
