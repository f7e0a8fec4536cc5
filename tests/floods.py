"""A loopback HTTP server that answers each request endlessly, until its client disconnects."""

from __future__ import annotations

import json
import threading
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

CHUNK_BYTES = 65_536
JSON, EVENTS = "application/json", "text/event-stream"


@dataclass(frozen=True)
class Flood:
    """The response that the server sends.

    Attributes:
        parts: Returns a new iterator over the body for each request.
    """

    parts: Callable[[], Iterator[bytes]]
    kind: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def packed(part: bytes, wbits: int, depth: int = 1) -> Callable[[], Iterator[bytes]]:
    """An endless repetition of ``part``, compressed ``depth`` times."""

    def parts() -> Iterator[bytes]:
        chain = [zlib.compressobj(9, wbits=wbits) for _ in range(depth)]
        while True:
            data = part
            for each in chain:
                data = each.compress(data)
            if data:
                yield data

    return parts


def endless(part: bytes, first: bytes = b"") -> Callable[[], Iterator[bytes]]:
    """``first``, then ``part`` repeated endlessly in large chunks."""
    many = part * (1 + CHUNK_BYTES // len(part))
    return lambda: iter_of(first, many)


def iter_of(first: bytes, many: bytes) -> Iterator[bytes]:
    """``first``, then ``many`` repeated endlessly."""
    yield first
    yield from repeat(many)


def delta(**fields: object) -> bytes:
    """One event of a streamed chat completion."""
    return b"data: " + json.dumps({"choices": [{"delta": fields}]}).encode() + b"\n\n"


ZEROS = bytes(4 * 1024 * 1024)
GZIP, DEFLATE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
BODIES = {
    "plain": Flood(endless(b"x")),
    "gzip": Flood(packed(ZEROS, GZIP), headers={"Content-Encoding": "gzip"}),
    "deflate": Flood(packed(ZEROS, DEFLATE), headers={"Content-Encoding": "deflate"}),
    "twice": Flood(packed(ZEROS, GZIP, 2), headers={"Content-Encoding": "gzip, gzip"}),
    "lists": Flood(endless(b"[],", b'{"choices":[')),
    "refusal": Flood(packed(ZEROS, GZIP), status=500, headers={"Content-Encoding": "gzip"}),
    "line": Flood(endless(b"x", b"data: "), EVENTS),
    "event": Flood(endless(b"data: x\n"), EVENTS),
    "empty lines of data": Flood(endless(b"data:\n"), EVENTS),
    "packed event": Flood(
        packed(b"data:" + ZEROS, GZIP), EVENTS, 200, {"Content-Encoding": "gzip"}
    ),
}
STREAMS = {
    "long words": Flood(endless(delta(content="w" * 10_000)), EVENTS),
    "comments": Flood(endless(b": ping\n\n"), EVENTS),
}


class FloodServer:
    """The server, in threads of this process."""

    def __init__(self, flood: Flood) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.flood = flood
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    flood: Flood


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        flood = self.server.flood
        self.send_response(flood.status)
        for name, value in {"Content-Type": flood.kind, **flood.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            for part in flood.parts():
                self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass
