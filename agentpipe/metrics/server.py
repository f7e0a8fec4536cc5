"""The server that Prometheus scrapes: ``/metrics``, and a page at ``/`` for people."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from agentpipe.errors import ConfigError
from agentpipe.metrics.families import families_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

    from agentpipe.brokers.statistics import Stats

# A client that sends nothing holds a thread for this long.
SILENCE_S = 10
_HOME = b'<!doctype html><title>agentpipe</title><p>agentpipe: <a href="/metrics">metrics</a>\n'
_TEXT = "text/plain; charset=utf-8"


class FleetCollector(Collector):
    """Makes metrics of a snapshot, for each scrape; without one, says that the broker is away."""

    def __init__(self, latest: Callable[[], Stats | None], *, openmetrics: bool = False) -> None:
        self._latest, self._openmetrics = latest, openmetrics

    def collect(self) -> Iterator[Metric]:
        """All metrics; ``agentpipe_up`` is always among them."""
        stats = self._latest()
        up = float(stats is not None)
        yield GaugeMetricFamily("agentpipe_up", "Whether the broker answered.", value=up)
        if stats is not None:
            yield from families_of(stats, openmetrics=self._openmetrics)


def registry_of(latest: Callable[[], Stats | None], *, openmetrics: bool) -> CollectorRegistry:
    """A registry with all metrics, for one of the two formats."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(latest, openmetrics=openmetrics))
    return registry


def app_of(latest: Callable[[], Stats | None]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application, over the snapshot that ``latest`` returns."""
    by_format = {it: make_wsgi_app(registry_of(latest, openmetrics=it)) for it in (False, True)}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            asked = "application/openmetrics-text" in environ.get("HTTP_ACCEPT", "")
            found: Iterable[bytes] = by_format[asked](environ, start_response)
            return found
        if path == "/":
            return _answer(start_response, "200 OK", "text/html; charset=utf-8", _HOME)
        return _answer(start_response, "404 Not Found", _TEXT, b"not found: see /metrics\n")

    return app


def _answer(start_response: Any, status: str, kind: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Scrapes are not news."""


class _Server(ThreadingWSGIServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A scraper that goes away is not news either."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(app: Callable[..., Iterable[bytes]], host: str, port: int) -> WSGIServer:
    """A server that listens; ``serve_forever`` answers.

    Raises:
        ConfigError: It cannot listen there.
    """
    kind = _Server6 if ":" in host else _Server
    try:
        return make_server(host, port, app, kind, _Handler)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}: "
            "choose another with --host and --port"
        ) from error
