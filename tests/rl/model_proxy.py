"""A proxy in front of a model server, which records requests and answers."""

from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

from tests.rl.vllm_server import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse

CHAT, GENERATE = "/v1/chat/completions", "/inference/v1/generate"


@dataclass
class Exchange:
    """A request, and the model server's answer.

    Attributes:
        body: The request's body.
        answer: The whole answer, joined if it was streamed; None until it has arrived.
    """

    path: str
    body: dict[str, Any]
    answer: dict[str, Any] | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def prompt_ids(self) -> list[int]:
        assert self.answer is not None
        found = self.body["token_ids"] if self.path == GENERATE else self.answer["prompt_token_ids"]
        return list(found)

    @property
    def choice(self) -> dict[str, Any]:
        assert self.answer is not None
        (found,) = self.answer["choices"]
        return dict(found)

    @property
    def key(self) -> str:
        """The id of the answer that a client sees."""
        assert self.answer is not None
        return str(self.answer.get("id") or self.answer["request_id"])


@dataclass
class Seen:
    """The recorded traffic; each list only grows."""

    exchanges: list[Exchange] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def sampled(self) -> list[Exchange]:
        """The exchanges for which the server has sampled."""
        return [it for it in self.exchanges if it.path in (CHAT, GENERATE)]

    @property
    def under_way(self) -> int:
        return sum(it.answer is None for it in self.sampled)


class ModelProxy:
    """Forwards requests to ``target``; the caller closes it."""

    def __init__(self, target: str) -> None:
        self.seen = Seen()
        handler = type("Handler", (_Handler,), {"target": target, "seen": self.seen})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection reset by a killed worker."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: ClassVar[str]
    seen: ClassVar[Seen]

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        exchange = Exchange(self.path, json.loads(raw))
        self.seen.exchanges.append(exchange)
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.target}{self.path}", raw, headers)
        # A killed worker does not read its answer.
        with suppress(ConnectionError):
            self._pass(request, exchange)

    def _pass(self, request: urllib.request.Request, exchange: Exchange) -> None:
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
                if exchange.is_stream:
                    self._pass_stream(response, exchange)
                else:
                    self._pass_whole(200, response.read(), exchange)
        except urllib.error.HTTPError as error:
            text = error.read()
            self.seen.failures.append(f"{error.code}: {text!r}")
            self._pass_whole(error.code, text, exchange)

    def _pass_whole(self, status: int, text: bytes, exchange: Exchange) -> None:
        exchange.answer = json.loads(text)
        self._begin(status, "application/json", ("content-length", str(len(text))))
        self.wfile.write(text)

    def _pass_stream(self, response: HTTPResponse, exchange: Exchange) -> None:
        self._begin(200, "text/event-stream", ("transfer-encoding", "chunked"))
        lines = []
        for line in response:
            lines.append(line)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        exchange.answer = joined(lines)
        self.wfile.write(b"0\r\n\r\n")

    def _begin(self, status: int, kind: str, length: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header(*length)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def joined(lines: list[bytes]) -> dict[str, Any]:
    """The chunks of a stream, joined to one answer."""
    chunks = list(_chunks(lines))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    logprobs = [choice["logprobs"]["content"] for choice in choices if choice.get("logprobs")]
    return {
        "id": chunks[0]["id"],
        "prompt_token_ids": next(
            chunk["prompt_token_ids"] for chunk in chunks if chunk.get("prompt_token_ids")
        ),
        "choices": [
            {
                "token_ids": [each for it in choices for each in it.get("token_ids") or ()],
                "logprobs": {"content": [each for content in logprobs for each in content]},
            }
        ],
    }


def _chunks(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


def times_asked(exchanges: list[Exchange]) -> Counter[tuple[int, int]]:
    """How many times each turn was requested, by its run's seed."""
    return Counter((it.body["seed"], len(it.body["messages"])) for it in exchanges)
