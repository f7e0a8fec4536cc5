"""Measures the cost of the gateway of recorded runs: ``python -m bench.gateway``.

A model server that does nothing returns 200 ids for 2,000: 25 KB of JSON for 8 KB. Clients call it
directly and through the gateway of a run, alternately.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.context import Context
from agentpipe.core.rollout import Rollout, recording
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.gateway import run_gateway
from bench.figures import show, show_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

HOST = "127.0.0.1"
PROMPT, SAMPLED, ROUNDS, CLIENTS, REQUESTS = 2_000, 200, 5, 32, 1_500
BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x " * 4_000}]})
_LOGPROB = {"token": "word", "logprob": -0.123456789, "bytes": [1, 2, 3], "top_logprobs": []}
_ANSWER = orjson.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "prompt_token_ids": list(range(PROMPT)),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * SAMPLED},
                "finish_reason": "stop",
                "token_ids": list(range(SAMPLED)),
                "logprobs": {"content": [_LOGPROB] * SAMPLED},
            }
        ],
        "usage": {"prompt_tokens": PROMPT, "completion_tokens": SAMPLED},
    }
)
_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


def main() -> None:
    with _process(_serve_model) as model, _process(_serve_gateway, model) as gateway:
        for clients, requests in ((CLIENTS, REQUESTS), (1, REQUESTS // 5)):
            direct, through = [], []
            for _ in range(ROUNDS):
                direct.append(asyncio.run(_per_s(model, clients, requests)))
                through.append(asyncio.run(_per_s(gateway, clients, requests)))
            show_rounds(f"gateway, {clients} clients", through, direct, "direct")
            added_ms = [
                1_000 * clients * (1 / a - 1 / b) for a, b in zip(through, direct, strict=True)
            ]
            show("  added to a request", f"{statistics.median(added_ms):.2f} ms")


@contextmanager
def _process(serve: Callable[..., None], *args: str) -> Iterator[str]:
    """Run a server in a separate process; yield its URL."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *args), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve_model(tell: Connection) -> None:
    asyncio.run(_model(tell))


async def _model(tell: Connection) -> None:
    server = await asyncio.start_server(_answer, HOST, 0)
    tell.send(f"http://{HOST}:{server.sockets[0].getsockname()[1]}/v1")
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await _next_body(reader):
        writer.write(_RESPONSE)
        await writer.drain()
    writer.close()


async def _next_body(reader: asyncio.StreamReader) -> bytes:
    """The body of a request or a response; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    size = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return await reader.readexactly(int(size))


def _serve_gateway(tell: Connection, model: str) -> None:
    asyncio.run(_gateway(tell, model))


async def _gateway(tell: Connection, model: str) -> None:
    """Serve one endless run's gateway, in one process as in a worker."""
    tracer = Tracer()
    with tracer.root(), recording(_Fresh()):
        async with run_gateway(Task(), Context({"OPENAI_BASE_URL": model}), {}) as gateway:
            assert gateway is not None
            tell.send(f"{gateway.base_url}/v1")
            while True:
                await asyncio.sleep(0.1)
                tracer.spans.clear()


class _Fresh(Rollout):
    def add(self, *args: Any, **more: Any) -> None:
        """Add each turn to a new record, as in many runs: one record would compare all rows."""
        Rollout().add(*args, **more)


async def _per_s(url: str, clients: int, requests: int) -> float:
    """Requests per second of all clients together."""
    left = iter(range(requests))
    begun = time.perf_counter()
    await asyncio.gather(*(_client(url, left) for _ in range(clients)))
    return requests / (time.perf_counter() - begun)


async def _client(url: str, left: Iterator[int]) -> None:
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /{path}/chat/completions HTTP/1.1\r\nhost: {address}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    for _ in left:
        writer.write(head.encode() + BODY)
        if not await _next_body(reader):
            sys.exit("the server has closed the connection")
    writer.close()


if __name__ == "__main__":
    main()
