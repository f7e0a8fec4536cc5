"""Sender: sends traces of results to an OTLP collector, and waits until each is accepted."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, urlsplit, urlunsplit

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExportResult

from agentpipe.core.result import Result
from agentpipe.errors import AgentpipeError, ConfigError, Unreachable
from agentpipe.tracing.spans import TraceMaker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from agentpipe.sinks.base import Record

# Spans per request; a collector's usual limit is 20 MiB.
BATCH = 512
PATH = "/v1/traces"

log = logging.getLogger(__name__)


class Exporter(Protocol):
    """OpenTelemetry's interface for sending a batch."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; return whether the collector accepted it."""


class TraceSender:
    """Sends traces to one collector.

    Args:
        url: The collector's, to which ``/v1/traces`` is added; its user and password are sent as
            basic authentication. Headers come from ``OTEL_EXPORTER_OTLP_HEADERS``.
        content: See ``TraceMaker``.

    Attributes:
        rejected: Number of spans that the collector rejected as invalid.
    """

    def __init__(self, url: str, *, content: bool) -> None:
        self.shown = shown(url)
        self.rejected = 0
        self._maker = TraceMaker(content=content)
        self._statuses: list[int] = []
        session = requests.Session()
        session.hooks["response"].append(self._heard)
        # Its log lines would repeat the URL, and the collector's response.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL + 1)
        self._exporter: Exporter = OTLPSpanExporter(endpoint_of(url), session=session)

    def send(self, results: Iterable[Result]) -> int:
        """Send the traces of all results; return the number of results.

        Raises:
            Unreachable: The collector does not answer, or cannot accept them now. Send all again.
            AgentpipeError: The collector refuses a request.
        """
        sent, batch = 0, list[Any]()
        for sent, result in enumerate(results, 1):  # noqa: B007 - counts
            for span in self._maker.spans_of(result):
                batch.append(span)
                if len(batch) == BATCH:
                    self._send(batch)
                    batch = []
        if batch:
            self._send(batch)
        return sent

    def add_new(self, records: Sequence[Record]) -> int:
        """Send collected records, as a target of a results collector; return their number."""
        return self.send(Result.decode(each.payload) for each in records)

    def _send(self, batch: Sequence[ReadableSpan]) -> None:
        self._statuses.clear()
        if self._exporter.export(batch) is SpanExportResult.SUCCESS:
            return
        if not self._statuses:
            raise Unreachable(f"{self.shown} does not answer")
        status = self._statuses[-1]
        reason = f"{status} {_phrase(status)}".rstrip()
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.REQUEST_TIMEOUT,
        ):
            raise Unreachable(f"{self.shown} takes nothing now: {reason}")
        raise AgentpipeError(f"{self.shown} refuses traces: {reason}")

    def _heard(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._statuses.append(response.status_code)
        if not response.ok:
            return
        rejected = _rejected(response.content)
        if rejected:
            self.rejected += rejected
            log.warning("%s accepted a request but for %d of its spans", self.shown, rejected)


def _rejected(body: bytes) -> int:
    """Number of spans that the collector rejected as invalid, so a retry would not help."""
    try:
        answer = ExportTraceServiceResponse.FromString(body)
    except Exception:  # noqa: BLE001 - protobuf's, or the server answers in JSON
        return 0
    return int(answer.partial_success.rejected_spans)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def endpoint_of(url: str) -> str:
    """The URL to send traces to.

    Raises:
        ConfigError: It is not a collector's URL.
    """
    parts = _parts_of(url)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(PATH) else path + PATH))


def shown(url: str) -> str:
    """The URL without possible credentials; raises like ``endpoint_of``."""
    parts = _parts_of(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _parts_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_collector = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_collector = False
    if not is_collector:  # Do not show the URL: it may contain a credential.
        raise ConfigError(
            "this is not a collector's URL: expected http://HOST:4318 or https://HOST"
        )
    return parts
