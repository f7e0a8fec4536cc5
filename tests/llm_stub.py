"""A loopback stand-in for a model server; uses only the standard library.

It speaks OpenAI's chat completions and, at their path, Anthropic's messages; whole or streamed.
It sends its scripted replies in order, then repeats the last one::

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
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

PATIENCE_S = 30.0
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
}


@dataclass(frozen=True)
class TokenIds:
    """Token ids and log-probabilities in vLLM's format."""

    prompt: list[int]
    sampled: list[int]
    versions: list[dict[str, Any]] = field(default_factory=list)

    def logprob(self, token_id: int) -> float:
        """A distinct log-probability for each token id."""
        return -token_id / 1000

    def choice(self, start: int, end: int) -> dict[str, Any]:
        """The fields of a choice for a slice of the sampled ids."""
        ids = self.sampled[start:end]
        content = [{"token": str(i), "logprob": self.logprob(i)} for i in ids]
        return {"token_ids": ids, "logprobs": {"content": content}}


@dataclass(frozen=True)
class Reply:
    """The stub's reaction to one request.

    Attributes:
        message: The assistant's message in OpenAI's form; not sent for errors and ``cut``.
        finish: The finish reason; empty for the default, None for null.
        unended: The stream ends without a finish reason.
        more: Fields that extend or override the completion's; in a stream, those of each event.
        events: Sent as the data of the stream's events.
        delay_s: Delay before anything is sent.
        after: Nothing is sent until this event is set.
        cut: The connection is closed without a response.
        hang: Nothing is sent until the stub is closed.
        raw: The whole body, sent instead of ``message`` with the content type ``kind``.
        ids: Token ids, added if the request asks for them.
    """

    message: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    finish: str | None = ""
    unended: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    events: Sequence[Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    after: threading.Event | None = None
    cut: bool = False
    hang: bool = False
    raw: bytes | None = None
    kind: str = "application/json"
    ids: TokenIds | None = None


@dataclass(frozen=True)
class Request:
    """A request that the stub received."""

    path: str
    authorization: str
    body: dict[str, Any]
    at: float

    @property
    def seed(self) -> int | None:
        """The request's ``seed``, or None."""
        seed: int | None = self.body.get("seed")
        return seed

    @property
    def question(self) -> str:
        """The content of the first user message, in either protocol."""
        content = next(m["content"] for m in self.body["messages"] if m["role"] == "user")
        return content if isinstance(content, str) else str(content[0]["text"])

    @property
    def text(self) -> str:
        """The whole conversation as JSON, for searching."""
        return json.dumps(self.body.get("messages"), ensure_ascii=False)


def say(text: str | None, **more: Any) -> Reply:
    """A plain answer; ``more`` sets fields of the reply."""
    return Reply({"role": "assistant", "content": text}, **more)


def call(name: str, /, **arguments: Any) -> Reply:
    """A tool call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": "call-1", "type": "function", "function": function}]
    return Reply({"role": "assistant", "content": None, "tool_calls": calls})


def fail(status: int, error: Any = None, *, retry_after: float | None = None) -> Reply:
    """An HTTP error; ``error`` is its body."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Reply(status=status, headers=headers, raw=None if error is None else _body(error))


def send(content: Any) -> Reply:
    """A response with status 200 and this body, JSON or bytes."""
    return Reply(raw=_body(content))


def _body(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def cut() -> Reply:
    """A connection that is closed without a response."""
    return Reply(cut=True)


def hang() -> Reply:
    """A request that is never answered."""
    return Reply(hang=True)


class LlmStub:
    """The server, in threads of this process; ``script`` can be a function of the request.

    Attributes:
        requests: All received requests, in order.
        url: The ``base_url`` for clients.
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
        """The script's next reply."""
        with self._lock:
            self.requests.append(request)
            if callable(self._script):
                return self._script(request)
            return self._script[min(len(self.requests), len(self._script)) - 1]

    def wait_for(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until this many requests have arrived."""
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
        key = self.headers.get("Authorization") or self.headers.get("x-api-key") or ""
        reply = self.server.stub.reply_to(Request(self.path, key, body, time.time()))
        self.server.stub.closed.wait(None if reply.hang else reply.delay_s)
        if reply.after is not None:
            reply.after.wait(PATIENCE_S)
        if reply.cut or reply.hang:
            self.close_connection = True
        else:
            self._reply(reply, body)

    def _reply(self, reply: Reply, body: dict[str, Any]) -> None:
        speech = ANTHROPIC if self.path.endswith("/messages") else OPENAI
        if reply.raw is not None:
            self._head(reply, reply.kind, {"Content-Length": str(len(reply.raw))})
            self.wfile.write(reply.raw)
        elif reply.status >= 400:
            self._send(reply, {"error": {"message": f"scripted {reply.status}", "type": "stub"}})
        elif reply.events is not None:
            self._stream(reply, reply.events)
        elif body.get("stream"):
            self._stream(reply, speech.events(reply, body))
        else:
            self._send(reply, speech.whole(reply, body))

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, reply: Reply, content: Any) -> None:
        data = _body(content)
        self._head(reply, "application/json", {"Content-Length": str(len(data))})
        self.wfile.write(data)

    def _stream(self, reply: Reply, events: Iterable[Any]) -> None:
        self._head(reply, "text/event-stream", {"Connection": "close"})
        for event in events:
            kind = event.get("type") if isinstance(event, dict) else None
            # Only Anthropic's events have a type, sent as their name.
            named = b"event: %s\n" % str(kind).encode() if kind else b""
            self.wfile.write(b"%sdata: %s\n\n" % (named, _body(event)))
            self.wfile.flush()
        self.close_connection = True

    def _head(self, reply: Reply, kind: str, more: dict[str, str]) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Type": kind, **reply.headers, **more}.items():
            self.send_header(name, value)
        self.end_headers()


class _OpenAi:
    def whole(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "message": reply.message, "finish_reason": self._finish(reply)}
        envelope = self._envelope(body, "chat.completion")
        if reply.ids and body.get("return_token_ids"):
            envelope["prompt_token_ids"] = reply.ids.prompt
            choice |= reply.ids.choice(0, len(reply.ids.sampled))
            choice |= {"weight_versions": reply.ids.versions} if reply.ids.versions else {}
        return {**envelope, "choices": [choice], "usage": USAGE, **reply.more}

    def events(self, reply: Reply, body: dict[str, Any]) -> Iterator[Any]:
        envelope = self._envelope(body, "chat.completion.chunk")
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in _words(reply)]
        if "refusal" in reply.message:
            deltas.append({"refusal": reply.message["refusal"]})
        if "tool_calls" in reply.message:
            calls = reply.message["tool_calls"]
            deltas.append({"tool_calls": [{"index": n, **each} for n, each in enumerate(calls)]})
        choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
        if not reply.unended:
            choices.append({"index": 0, "delta": {}, "finish_reason": self._finish(reply)})
        if reply.ids and body.get("return_token_ids"):
            self._add_ids(choices, reply.ids)
            yield {**envelope, "choices": [], "prompt_token_ids": reply.ids.prompt}
        for choice in choices:
            yield {**envelope, "choices": [choice], **reply.more}
        if not reply.unended:
            yield {**envelope, "choices": [], "usage": USAGE, **reply.more}
        yield b"[DONE]"

    def _add_ids(self, choices: list[dict[str, Any]], ids: TokenIds) -> None:
        """Split the ids over the first two chunks."""
        half = len(ids.sampled) // 2
        choices[0] |= ids.choice(0, half)
        choices[1] |= ids.choice(half, len(ids.sampled))

    def _finish(self, reply: Reply) -> str | None:
        usual = "tool_calls" if "tool_calls" in reply.message else "stop"
        return usual if reply.finish == "" else reply.finish

    def _envelope(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        return {"id": "stub-1", "object": kind, "created": 0, "model": body.get("model", "stub")}


class _Anthropic:
    def whole(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        usage = {"input_tokens": 6, "cache_read_input_tokens": 4, "output_tokens": 5}
        own: dict[str, Any] = {"content": self._blocks(reply), "stop_reason": self._stop(reply)}
        return {**self._envelope(body), **own, "usage": usage, **reply.more}

    def events(self, reply: Reply, body: dict[str, Any]) -> Iterator[Any]:
        usage = {"input_tokens": 6, "cache_read_input_tokens": 4, "output_tokens": 1}
        begun: dict[str, Any] = {"content": [], "stop_reason": None, "usage": usage}
        message = {**self._envelope(body), **begun, **reply.more}
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}
        for index, block in enumerate(self._blocks(reply)):
            start, deltas = self._parts(block, reply)
            yield {"type": "content_block_start", "index": index, "content_block": start}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        if not reply.unended:
            delta = {"stop_reason": self._stop(reply), "stop_sequence": None}
            yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}
            yield {"type": "message_stop"}

    def _blocks(self, reply: Reply) -> list[dict[str, Any]]:
        text = reply.message.get("content")
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        for each in reply.message.get("tool_calls", ()):
            function = each["function"]
            named = {"type": "tool_use", "id": each["id"], "name": function["name"]}
            blocks.append({**named, "input": json.loads(function["arguments"])})
        return blocks

    def _parts(
        self, block: dict[str, Any], reply: Reply
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if block["type"] == "text":
            texts = [{"type": "text_delta", "text": word} for word in _words(reply)]
            return {**block, "text": ""}, texts
        half = len(text := json.dumps(block["input"])) // 2
        parts = [
            {"type": "input_json_delta", "partial_json": p} for p in (text[:half], text[half:])
        ]
        return {**block, "input": {}}, parts

    def _stop(self, reply: Reply) -> str | None:
        usual = "tool_use" if "tool_calls" in reply.message else "end_turn"
        return usual if reply.finish == "" else reply.finish

    def _envelope(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"id": "stub-1", "type": "message", "role": "assistant", "model": body["model"]}


OPENAI, ANTHROPIC = _OpenAi(), _Anthropic()


def _words(reply: Reply) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", reply.message.get("content") or "")
