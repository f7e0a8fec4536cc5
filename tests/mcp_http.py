"""A loopback MCP server over HTTP; uses only the standard library.

It speaks the streamable transport at ``url`` and the older SSE transport at ``old_url``. A script
gets each message and can return a response to send instead of the usual reply.
"""

from __future__ import annotations

import json
import queue
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}


@dataclass(frozen=True)
class Sent:
    """An HTTP response that the script returns."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    forget: bool = False


class McpStub:
    """The server, in threads of this process.

    Attributes:
        messages: All posted messages, in order.
        paths: The paths of all posts.
        sessions: The ids of open sessions.
        redirect: The response to every post without a query.
        instead_of_stream: Sent in place of the older transport's stream.
        deleted: The sessions that clients ended.
    """

    def __init__(
        self,
        script: Callable[[dict[str, Any]], Sent | None] | None = None,
        *,
        streams: bool = False,
    ) -> None:
        self.messages: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.sessions: set[str] = set()
        self.deleted: set[str] = set()
        self.script, self.streams = script or (lambda _: None), streams
        self.forgotten = 404
        self.words_of_forgotten = b"Session not found"
        self.instead_of_stream: Sent | None = None
        self.redirect: Sent | None = None
        self.paths: list[str] = []
        self.streamed: queue.Queue[bytes | None] = queue.Queue()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}/mcp"
        self.old_url = f"http://127.0.0.1:{self._server.server_port}/sse"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.streamed.put(None)
        self._server.shutdown()
        self._server.server_close()

    def calls(self) -> list[dict[str, Any]]:
        """The parameters of all tool calls."""
        return [each["params"] for each in self.messages if each.get("method") == "tools/call"]


def result_of(message: dict[str, Any]) -> Any:
    """The default result for a request."""
    match message["method"]:
        case "initialize":
            info = {"name": "stub", "version": "1"}
            version = message["params"]["protocolVersion"]
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            return {"tools": [{"name": "echo", "description": "echo", "inputSchema": SCHEMA}]}
        case "tools/call":
            text = message["params"]["arguments"].get("text", "")
            return {"content": [{"type": "text", "text": f"echo {text}"}]}
    return {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    stub: McpStub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        stub = self.server.stub
        message = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        stub.paths.append(self.path)
        if stub.redirect is not None and "?" not in self.path:
            self._send(stub.redirect)
            return
        stub.messages.append(message)
        stub.headers.append({name.lower(): value for name, value in self.headers.items()})
        sent = stub.script(message)
        if sent is not None and sent.forget:
            stub.sessions.clear()
        elif sent is not None:
            self._send(sent)
            return
        if self.path == "/old":
            self._answer_in_stream(message)
        elif message["method"] == "initialize":
            session = uuid.uuid4().hex
            stub.sessions.add(session)
            self._answer(message, {"Mcp-Session-Id": session})
        elif self.headers.get("Mcp-Session-Id") not in stub.sessions:
            self._send(Sent(stub.forgotten, stub.words_of_forgotten, "text/plain"))
        else:
            self._answer(message, {})

    def do_GET(self) -> None:
        if self.path != "/sse":
            self._send(Sent(405))
            return
        if (instead := self.server.stub.instead_of_stream) is not None:
            self._send(instead)
            return
        self._begin(Sent(kind="text/event-stream", headers={"Connection": "close"}))
        self.wfile.write(b"event: endpoint\ndata: /old\n\n")
        while (data := self.server.stub.streamed.get()) is not None:
            self.wfile.write(b"event: message\ndata: " + data + b"\n\n")
            self.wfile.flush()
        self.close_connection = True

    def do_DELETE(self) -> None:
        self.server.stub.deleted.add(self.headers.get("Mcp-Session-Id", ""))
        self._send(Sent())

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, message: dict[str, Any], headers: dict[str, str]) -> None:
        if "id" not in message:
            self._send(Sent(202))
            return
        body = _reply(message)
        if self.server.stub.streams:
            body = b": a comment\n\nevent: message\ndata: " + body + b"\n\n"
        kind = "text/event-stream" if self.server.stub.streams else "application/json"
        self._send(Sent(200, body, kind, headers))

    def _answer_in_stream(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self.server.stub.streamed.put(_reply(message))
        self._send(Sent(202))

    def _send(self, sent: Sent) -> None:
        self._begin(sent, {"Content-Length": str(len(sent.body))})
        self.wfile.write(sent.body)

    def _begin(self, sent: Sent, more: dict[str, str] | None = None) -> None:
        self.send_response(sent.status)
        for name, value in {"Content-Type": sent.kind, **(more or {}), **sent.headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _reply(message: dict[str, Any]) -> bytes:
    reply = {"jsonrpc": "2.0", "id": message["id"], "result": result_of(message)}
    return json.dumps(reply).encode()
