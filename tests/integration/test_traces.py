"""Traces of a real stream, sent to a real HTTP server and decoded by OpenTelemetry's classes."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from brokers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project

pytestmark = pytest.mark.process
TOKEN = "token-hidden-7"


@dataclass
class CollectorStub:
    """A collector that answers with ``status``, and stores what it accepts."""

    url: str = ""
    status: int = 200
    rejects: int = 0
    spans: list[tuple[bytes, bytes, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def accept(self, body: bytes) -> bytes:
        """Store the request's spans as trace id, span id and name."""
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [(it.trace_id, it.span_id, it.name) for it in scope.spans]
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejects
        answer.partial_success.error_message = f"{TOKEN} is unwanted"
        return bytes(answer.SerializeToString()) if self.rejects else b""


def _handler(stub: CollectorStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            stub.headers.append(dict(self.headers))
            answer = stub.accept(body) if stub.status == 200 else TOKEN.encode()
            self.send_response(stub.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def collecting(stub: CollectorStub, port: int = 0) -> Iterator[CollectorStub]:
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(stub))
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def collector() -> Iterator[CollectorStub]:
    with collecting(CollectorStub()) as stub:
        yield stub


@pytest.fixture
def filled(project: Project) -> Project:
    """A project with three results, and a credential in the exporter's headers."""
    project.collection(number=1)
    project.send("echo yes", "echo no", "raise boom")
    project.burst("--processes", "1")
    project.environ["OTEL_EXPORTER_OTLP_HEADERS"] = f"x-key={TOKEN}"
    return project


# For collectors that do not answer; others may be slow.
BRIEFLY = {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1"}


def test_each_result_is_a_trace_and_a_repeat_is_the_same(
    filled: Project, collector: CollectorStub
) -> None:
    done = filled.ok("export", "--to", "otlp", collector.url, "--json")
    assert done.json == {"path": collector.url, "format": "otlp", "results": 3, "rejected": 0}
    first = set(collector.spans)
    assert len({trace for trace, _, _ in first}) == 3
    assert [name for *_, name in first].count("invoke_agent toys") == 3
    assert collector.headers[0]["x-key"] == TOKEN
    filled.ok("export", "--to", "otlp", collector.url)
    assert set(collector.spans) == first
    assert len(collector.spans) == 2 * len(first)


def test_a_group_sends_each_result_once(filled: Project, collector: CollectorStub) -> None:
    for _ in range(2):
        filled.ok("collect", "--otlp", collector.url, "--timeout", "0.5")
    assert len(collector.spans) == len(set(collector.spans))
    assert len({trace for trace, _, _ in collector.spans}) == 3


@pytest.mark.long
@pytest.mark.parametrize(("status", "code"), [(503, 4), (400, 1)])
def test_what_a_collector_does_not_accept_comes_again(
    filled: Project, collector: CollectorStub, status: int, code: int
) -> None:
    collector.status = status
    done = filled.run("collect", "--otlp", collector.url, "--timeout", "0.5", env=BRIEFLY)
    assert done.code == code
    assert f"{status} " in done.err
    assert TOKEN not in done.err
    collector.status = 200
    filled.ok("collect", "--otlp", collector.url, "--timeout", "0.5")
    assert len({trace for trace, _, _ in collector.spans}) == 3


def test_a_collector_that_is_away_is_one_line_and_loses_nothing(filled: Project) -> None:
    port = free_port()
    url = f"http://me:{TOKEN}@127.0.0.1:{port}/?key={TOKEN}"
    done = filled.run("collect", "--otlp", url, "--timeout", "0.5", env=BRIEFLY)
    assert done.code == 4
    assert f"http://127.0.0.1:{port}/ does not answer" in done.err
    assert TOKEN not in done.err
    with collecting(CollectorStub(), port) as stub:
        filled.ok("collect", "--otlp", url, "--timeout", "0.5")
    assert len({trace for trace, _, _ in stub.spans}) == 3
    assert stub.headers[0]["Authorization"].startswith("Basic ")


def test_what_is_rejected_in_part_is_not_repeated(
    filled: Project, collector: CollectorStub
) -> None:
    collector.rejects = 2
    done = filled.ok("export", "--to", "otlp", collector.url)
    assert "rejected 2 spans" in done.err
    assert TOKEN not in done.err
    assert len(collector.headers) == 1


def test_without_the_extra_it_says_how_to_install_it(filled: Project) -> None:
    (filled.folder / "requests.py").write_text("raise ModuleNotFoundError('no', name='requests')")
    hidden = {"PYTHONPATH": str(filled.folder)}
    done = filled.run("export", "--to", "otlp", "http://127.0.0.1:1", env=hidden)
    assert done.code == 1
    assert done.err.startswith("traces need OpenTelemetry: ")
    assert done.err.count("\n") == 1
