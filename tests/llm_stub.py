"""A loopback stand-in for OpenAI's chat completions, with nothing but the standard library.

It gives its scripted replies in turn, the last one again and again::

    with LlmStub([say("a"), fail(429, retry_after=3), say("b")]) as stub:
        ...  # base_url = stub.url
    assert stub.requests[0].authorization == "Bearer key"
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
}


@dataclass(frozen=True)
class Reply:
    """What the stub does with one request.

    Attributes:
        message: The assistant's message, unless ``status`` is an error or the line is cut.
        delay_s: Before anything is sent.
        cut: The connection is closed without a word.
        hang: Nothing is sent until the stub is closed.
        raw: The whole body, instead of ``message``, of this content type (``kind``).
    """

    message: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    hang: bool = False
    raw: bytes | None = None
    kind: str = "application/json"


@dataclass(frozen=True)
class Request:
    """What was asked."""

    path: str
    authorization: str
    body: dict[str, Any]
    at: float

    @property
    def seed(self) -> int | None:
        """The request's ``seed``, where it has one."""
        seed: int | None = self.body.get("seed")
        return seed

    @property
    def question(self) -> str:
        """What the user asked: the first message of theirs, of either protocol."""
        content = next(m["content"] for m in self.body["messages"] if m["role"] == "user")
        return content if isinstance(content, str) else str(content[0]["text"])

    @property
    def text(self) -> str:
        """All of the conversation, to look for a word in it."""
        return json.dumps(self.body.get("messages"), ensure_ascii=False)


def say(text: str | None, *, delay_s: float = 0.0) -> Reply:
    """A plain answer."""
    return Reply({"role": "assistant", "content": text}, delay_s=delay_s)


def call(name: str, **arguments: Any) -> Reply:
    """A call of a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": "call-1", "type": "function", "function": function}]
    return Reply({"role": "assistant", "content": None, "tool_calls": calls})


def fail(status: int, *, retry_after: float | None = None) -> Reply:
    """An HTTP error."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Reply(status=status, headers=headers)


def cut() -> Reply:
    """The connection breaks."""
    return Reply(cut=True)


def hang() -> Reply:
    """No answer at all."""
    return Reply(hang=True)


class LlmStub:
    """The server, in threads of this process; ``script`` may be a function of the request.

    Attributes:
        requests: All that were asked, in order.
        url: To be used as ``base_url``.
    """

    def __init__(self, script: Sequence[Reply] | Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self._script = script
        self._lock = threading.Lock()
        self.closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def reply_to(self, request: Request) -> Reply:
        """The next reply of the script."""
        with self._lock:
            self.requests.append(request)
            if callable(self._script):
                return self._script(request)
            return self._script[min(len(self.requests), len(self._script)) - 1]

    def wait_for(self, count: int, timeout_s: float = 30.0) -> None:
        """Until that many requests have come."""
        until = time.monotonic() + timeout_s
        while len(self.requests) < count:
            assert time.monotonic() < until, f"{len(self.requests)} requests of {count}"
            time.sleep(0.01)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    stub: LlmStub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        token = self.headers.get("Authorization", "")
        reply = self.server.stub.reply_to(Request(self.path, token, body, time.time()))
        self.server.stub.closed.wait(None if reply.hang else reply.delay_s)
        if reply.cut or reply.hang:
            self.close_connection = True
        elif reply.raw is not None:
            self._head(reply, reply.kind, {"Content-Length": str(len(reply.raw))})
            self.wfile.write(reply.raw)
        elif reply.status >= 400:
            self._send(reply, {"error": {"message": f"scripted {reply.status}", "type": "stub"}})
        elif body.get("stream"):
            self._stream(reply, body)
        else:
            self._send(reply, _completion(reply, body))

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, reply: Reply, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self._head(reply, "application/json", {"Content-Length": str(len(data))})
        self.wfile.write(data)

    def _stream(self, reply: Reply, body: dict[str, Any]) -> None:
        self._head(reply, "text/event-stream", {"Connection": "close"})
        for chunk in _chunks(reply, body):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _head(self, reply: Reply, kind: str, more: dict[str, str]) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Type": kind, **reply.headers, **more}.items():
            self.send_header(name, value)
        self.end_headers()


def _completion(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    reason = "tool_calls" if "tool_calls" in reply.message else "stop"
    choice = {"index": 0, "message": reply.message, "finish_reason": reason}
    return {**_envelope(body, "chat.completion"), "choices": [choice], "usage": USAGE}


def _chunks(reply: Reply, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    envelope = _envelope(body, "chat.completion.chunk")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    words = re.findall(r"\s*\S+|\s+$", reply.message.get("content") or "")
    deltas += [{"content": word} for word in words]
    if "tool_calls" in reply.message:
        calls = reply.message["tool_calls"]
        deltas.append({"tool_calls": [{"index": n, **each} for n, each in enumerate(calls)]})
    for delta in deltas:
        yield {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**envelope, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield {**envelope, "choices": [], "usage": USAGE}


def _envelope(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "stub-1", "object": kind, "created": 0, "model": body.get("model", "stub")}
