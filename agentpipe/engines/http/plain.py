"""PlainTransport: HTTP/1.1 without TLS, for model servers in a private network.

It takes a tenth of the processor time of httpx2's own transport, which scans all connections of its
pool for each request, and parses in Python.
"""

from __future__ import annotations

import asyncio
import re
import select
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2

from agentpipe.engines.http.messages import ResponseMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Less than the five seconds after which most servers close an idle connection: a request that
# crosses with the close fails.
IDLE_S = 4.0
_HAPPY_EYEBALLS_S = 0.25
# Unread body bytes at which reading from the socket pauses.
_MOST_UNREAD = 256 * 1024
_BREAKS = re.compile(rb"[\r\n\0]")


class PlainTransport(httpx2.AsyncBaseTransport):
    """Connections to any number of servers; each connection serves one request at a time."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the response's body is streamed as it is read."""
        server = (request.url.raw_host.decode("ascii"), request.url.port or 80)
        head = _head(request)
        connection = self._reused(server) or await _connected(server, request)
        try:
            message = await connection.ask(head, await request.aread())
        except BaseException:
            connection.close()
            raise
        body = _Body(connection, message, self._idle.setdefault(server, []))
        return httpx2.Response(message.status, headers=message.headers, stream=body)

    def _reused(self, server: tuple[str, int]) -> _Connection | None:
        idle = self._idle.get(server, [])
        while idle:
            if (connection := idle.pop()).is_usable():
                return connection
            connection.close()
        return None

    async def aclose(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()


async def _connected(server: tuple[str, int], request: httpx2.Request) -> _Connection:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(request.extensions.get("timeout", {}).get("connect")):
            _, connection = await loop.create_connection(
                _Connection, *server, happy_eyeballs_delay=_HAPPY_EYEBALLS_S
            )
    except TimeoutError as error:
        raise httpx2.ConnectTimeout("no connection in time") from error
    except (OSError, UnicodeError) as error:  # The latter for a host that no DNS name can be.
        raise httpx2.ConnectError(str(error)) from error
    return connection


def _head(request: httpx2.Request) -> bytes:
    """The request's head.

    Raises:
        LocalProtocolError: It contains a line break, which would start another header or request.
    """
    line = (request.method.encode("ascii"), request.url.raw_path)
    if any(map(_BREAKS.search, [*line, *(part for each in request.headers.raw for part in each)])):
        raise httpx2.LocalProtocolError("a line break in the request's head")
    fields = b"".join(b"%b: %b\r\n" % each for each in request.headers.raw)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (*line, fields)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._message: ResponseMessage | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._since_s = 0.0

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._message is None:  # Unrequested data must not answer the next request.
            self.close()
            return
        with self._noting_errors():
            self._message.feed(data)
            if self._message.unread > _MOST_UNREAD:
                self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        with self._noting_errors():
            if self._message is not None:
                self._message.end()
        if error is not None and self._error is None:
            self._error = httpx2.ReadError(str(error))
        self._error = self._error or httpx2.RemoteProtocolError("the connection is closed")
        self._wake()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx2.HTTPError as error:
            self._error = self._error or error

    # Called by the transport.

    def is_usable(self) -> bool:
        """Whether it is open with nothing to read: a readable idle connection has been closed."""
        if self._transport.is_closing() or time.monotonic() > self._since_s + IDLE_S:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    async def ask(self, head: bytes, body: bytes) -> ResponseMessage:
        """Send a request and return the response as soon as its head has arrived.

        Raises:
            HTTPError: The head does not arrive.
        """
        message = self._message = ResponseMessage()
        self._transport.write(head + body)
        while not (message.has_head or self._error):
            await self._changed()
        if not message.has_head and self._error:
            raise self._error
        return message

    async def parts(self, message: ResponseMessage) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            HTTPError: The body is incomplete.
        """
        while True:
            if part := message.taken():
                yield part
                self._transport.resume_reading()
            elif message.is_whole:
                return
            elif self._error:
                raise self._error
            else:
                await self._changed()

    def release(self, message: ResponseMessage, idle: list[_Connection]) -> None:
        """Return it to ``idle``, or close it if it cannot be reused."""
        if not message.leaves_open or self._error or self._transport.is_closing():
            self.close()
            return
        self._message, self._since_s = None, time.monotonic()
        self._transport.resume_reading()
        idle.append(self)

    def close(self) -> None:
        """Close at once, without waiting for pending data."""
        self._transport.abort()

    async def _changed(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Body(httpx2.AsyncByteStream):
    def __init__(
        self, connection: _Connection, message: ResponseMessage, idle: list[_Connection]
    ) -> None:
        self._connection: _Connection | None = connection
        self._message, self._idle = message, idle

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._connection is not None:
            async for part in self._connection.parts(self._message):
                yield part

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(self._message, self._idle)
