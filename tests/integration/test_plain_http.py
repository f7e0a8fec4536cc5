"""The transport to model servers without TLS, with servers that misbehave."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar

import httpx2
import pytest

from agentpipe.engines.http import plain
from agentpipe.engines.http.clients import new_client
from agentpipe.engines.models.service_errors import redirected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

T = TypeVar("T")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def next_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(size or 0))


class Server:
    """Serves each connection by ``script``; an async context manager."""

    def __init__(self, script: Script) -> None:
        self.connections = 0
        self._script = script
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/x"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.add(asyncio.create_task(self._served(reader, writer)))

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def with_client(script: Script, use: Callable[[httpx2.AsyncClient, Server], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Server(script) as server, new_client(redirected, plain=True) as client:
            async with asyncio.timeout(60):
                return await use(client, server)

    return asyncio.run(run())


async def always_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await next_request(reader):
        writer.write(OK)


async def once_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await next_request(reader)
    writer.write(OK)
    await writer.drain()
    writer.close()


def test_a_connection_serves_many_requests() -> None:
    async def use(client: httpx2.AsyncClient, server: Server) -> int:
        for n in range(20):
            response = await client.post(server.url, content=b"a" * n)
            assert response.content == b"ok"
        return server.connections

    assert with_client(always_ok, use) == 1


def test_many_requests_at_once_do_not_meet() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await next_request(reader):
            body = request.partition(b"\r\n\r\n")[2]
            await asyncio.sleep(0)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def use(client: httpx2.AsyncClient, server: Server) -> None:
        bodies = [b"%d" % n * n for n in range(1, 300)]
        got = await asyncio.gather(*(client.post(server.url, content=body) for body in bodies))
        assert [response.content for response in got] == bodies

    with_client(echo, use)


def test_a_server_that_closes_idle_connections_fails_no_request() -> None:
    """This includes a close that the busy event loop has not read yet."""

    async def use(client: httpx2.AsyncClient, server: Server) -> int:
        for _ in range(10):
            assert (await client.post(server.url, content=b"x")).status_code == 200
        return server.connections

    assert with_client(once_ok, use) == 10


def test_what_comes_unasked_answers_nothing() -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next_request(reader)
        writer.write(OK + OK.replace(b"ok", b"no"))
        await next_request(reader)
        writer.write(OK.replace(b"ok", b"no"))

    async def use(client: httpx2.AsyncClient, server: Server) -> list[bytes]:
        return [(await client.post(server.url, content=b"x")).content for _ in range(3)]

    assert with_client(eager, use) == [b"ok"] * 3


def test_an_idle_connection_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "IDLE_S", -1.0)

    async def use(client: httpx2.AsyncClient, server: Server) -> int:
        for _ in range(3):
            await client.post(server.url, content=b"x")
        return server.connections

    assert with_client(always_ok, use) == 3


def test_a_body_without_a_size_is_read_to_its_end() -> None:
    async def unsized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 3_000_000)
        await writer.drain()
        writer.close()

    async def use(client: httpx2.AsyncClient, server: Server) -> int:
        return len((await client.post(server.url, content=b"x")).content)

    assert with_client(unsized, use) == 3_000_000


@pytest.mark.parametrize("given", [b"", OK[:10], OK[:-1], b"what?\r\n\r\n"])
def test_a_response_that_does_not_end_is_an_error(given: bytes) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next_request(reader)
        writer.write(given)
        writer.close()

    async def use(client: httpx2.AsyncClient, server: Server) -> None:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(server.url, content=b"x")

    with_client(cut, use)


def test_a_server_that_is_not_there_is_an_error() -> None:
    async def use(client: httpx2.AsyncClient, server: Server) -> None:
        await server.__aexit__()
        with pytest.raises(httpx2.ConnectError):
            await client.post(server.url, content=b"x")

    with_client(always_ok, use)


def test_a_reader_that_waits_makes_the_server_wait() -> None:
    writers = []

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 50_000_000)
        await writer.drain()

    async def use(client: httpx2.AsyncClient, server: Server) -> int:
        async with client.stream("POST", server.url, content=b"x") as response:
            for _ in range(2_000):  # Ten times the steps that the response takes to arrive.
                await asyncio.sleep(0)
            assert writers[0].transport.get_write_buffer_size() > 10_000_000
            return len(await response.aread())

    assert with_client(large, use) == 50_000_000


def test_a_stream_that_is_left_closes_its_connection() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await next_request(reader)

    async def use(client: httpx2.AsyncClient, server: Server) -> int:
        for _ in range(2):
            async with client.stream("POST", server.url, content=b"x") as response:
                assert await anext(response.aiter_bytes()) == b"half"
        return server.connections

    assert with_client(slow, use) == 2


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nGET / HTTP/1.1", "a\0"])
def test_no_header_begins_another(value: str) -> None:
    async def use(client: httpx2.AsyncClient, server: Server) -> None:
        with pytest.raises(httpx2.LocalProtocolError):
            await client.post(server.url, content=b"x", headers={"x-a": value})

    with_client(always_ok, use)
