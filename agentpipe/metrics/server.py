"""The server that Prometheus scrapes: ``/metrics``, and a page at ``/`` for people."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer, choose_encoder
from prometheus_client.registry import Collector

from agentpipe.connections.listening import cannot_listen
from agentpipe.metrics.families import families_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

    from agentpipe.brokers.statistics import Stats

# Seconds for which a client that sends nothing can hold a thread.
SILENCE_S = 10
_HOME = b'<!doctype html><title>agentpipe</title><p>agentpipe: <a href="/metrics">metrics</a>\n'
_TEXT = "text/plain; charset=utf-8"
_READS = ("GET", "HEAD")
_ALLOW = ("Allow", ", ".join(_READS))


class FleetCollector(Collector):
    """Makes metrics from the latest snapshot per scrape; without one, reports the broker as down.

    Args:
        names: Names of the wanted samples; empty for all.
    """

    def __init__(
        self,
        latest: Callable[[], Stats | None],
        *,
        openmetrics: bool = False,
        names: Collection[str] = (),
    ) -> None:
        self._latest, self._openmetrics, self._names = latest, openmetrics, names

    def collect(self) -> Iterator[Metric]:
        """All metrics; always includes ``agentpipe_up``, unless only others are wanted."""
        for family in self._families():
            if self._names:
                family.samples = [it for it in family.samples if it.name in self._names]
            if family.samples or not self._names:
                yield family

    def _families(self) -> Iterator[Metric]:
        stats = self._latest()
        up = float(stats is not None)
        yield GaugeMetricFamily("agentpipe_up", "Whether the broker answered.", value=up)
        if stats is not None:
            yield from families_of(stats, openmetrics=self._openmetrics)


def registry_of(
    latest: Callable[[], Stats | None], *, openmetrics: bool, names: Collection[str] = ()
) -> CollectorRegistry:
    """A registry with all metrics, or those with the given names, for one of the two formats."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(latest, openmetrics=openmetrics, names=names))
    return registry


def app_of(latest: Callable[[], Stats | None]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application for the snapshots that ``latest`` returns."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in _READS:
            return _answer(start_response, "405 Method Not Allowed", _TEXT, b"only GET\n", _ALLOW)
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return _scraped(latest, environ, start_response)
        if path == "/":
            return _answer(start_response, "200 OK", "text/html; charset=utf-8", _HOME)
        return _answer(start_response, "404 Not Found", _TEXT, b"not found: see /metrics\n")

    def without_body(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer = app(environ, start_response)
        return answer if environ["REQUEST_METHOD"] != "HEAD" else ()

    return without_body


def _scraped(
    latest: Callable[[], Stats | None], environ: dict[str, Any], start_response: Any
) -> Iterable[bytes]:
    """Answer in the requested format; only some metrics if Prometheus names them by ``name[]``."""
    wanted = _understood(environ.get("HTTP_ACCEPT", ""))
    names = parse_qs(environ.get("QUERY_STRING", "")).get("name[]", ())
    openmetrics = "application/openmetrics-text" in wanted
    registry = registry_of(latest, openmetrics=openmetrics, names=frozenset(names))
    asked = {"REQUEST_METHOD": "GET", "QUERY_STRING": "", "HTTP_ACCEPT": wanted}
    found: Iterable[bytes] = make_wsgi_app(registry)({**environ, **asked}, start_response)
    return found


def _understood(accept: str) -> str:
    """The Accept header; plain text if it is malformed."""
    try:
        choose_encoder(accept)
    except (TypeError, ValueError):
        return "text/plain"
    return accept


def _answer(
    start_response: Any, status: str, kind: str, body: bytes, *more: tuple[str, str]
) -> list[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), *more]
    start_response(status, headers)
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Do not log scrapes."""


class _Server(ThreadingWSGIServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Do not log a scraper that disconnects."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(app: Callable[..., Iterable[bytes]], host: str, port: int) -> WSGIServer:
    """A listening server; ``serve_forever`` answers.

    Raises:
        AgentpipeError: It cannot listen on this address.
    """
    kind = _Server6 if ":" in host else _Server
    try:
        return make_server(host, port, app, kind, _Handler)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
