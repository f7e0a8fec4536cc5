"""LoopbackServer: HTTP/1.1 for programs on this machine, on the event loop of a worker."""

from __future__ import annotations

import asyncio
import select
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import h11

from agentpipe.core.caps import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HOST = "127.0.0.1"
MAX_HEAD_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
# For all runs of a worker together, and other processes on this machine that reach the port.
MAX_CONNECTIONS = 2_000
# Between two requests, and between two parts of a request.
MAX_SILENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request; header names are in lower case.

    Attributes:
        is_too_large: Whether it has more than ``MAX_REQUEST_BYTES``; its body is left out then.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    is_too_large: bool = False


class LoopbackServer:
    """Passes each request to a handler; a connection serves one request at a time."""

    def __init__(
        self,
        handle: Callable[[Request, Reply], Awaitable[None]],
        refusal: Callable[[Request], tuple[int, bytes] | None],
    ) -> None:
        """``refusal`` gets only a request's head, before its body uses any memory."""
        self._handle, self._refusal = handle, refusal
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self) -> int:
        """Listen on a free port and return it; the server lives as long as its event loop."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.BaseProtocol:
            reader = asyncio.StreamReader(loop=loop)
            made = _Protocol(reader, lambda *streams: self._serve(made, *streams), loop=loop)
            return made

        self._server = await loop.create_server(protocol, HOST, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(
        self, protocol: _Protocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections += 1
        try:
            # Cancelling the run or the loop also cancels this task, which asyncio would log.
            with suppress(*_ENDS, asyncio.CancelledError):
                if self._connections <= MAX_CONNECTIONS:
                    await self._serve_all(_Connection(protocol, reader, writer))
        finally:
            self._connections -= 1
            writer.close()

    async def _serve_all(self, connection: _Connection) -> None:
        while (head := await connection.next_head()) is not None:
            reply = Reply(connection)
            if refusal := self._refusal(head):
                await reply.whole(refusal[0], _CLOSING, refusal[1])
                return
            await self._handle(await connection.with_body(head), reply)
            if not connection.begins_again():
                return


class _Protocol(asyncio.StreamReaderProtocol):
    """Notes when its client closes the connection: what reads it is busy with the answer then."""

    hung_up_at: float | None = None

    def eof_received(self) -> bool | None:
        self.hung_up_at = self.hung_up_at or time.monotonic()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.hung_up_at = self.hung_up_at or time.monotonic()
        super().connection_lost(error)


_ENDS = (h11.ProtocolError, ConnectionError, TimeoutError)
_CLOSING = {"content-type": "application/json", "connection": "close"}


class _Connection:
    def __init__(
        self, protocol: _Protocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """``protocol`` is given, as a transport forgets its own once the connection is lost."""
        self._protocol, self._reader, self._writer = protocol, reader, writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def next_head(self) -> Request | None:
        """The next request without its body; None if the client closed the connection."""
        event = await self._next_event()
        return _request(event) if isinstance(event, h11.Request) else None

    async def with_body(self, head: Request) -> Request:
        """Read the body, and return the request with it.

        Raises:
            ConnectionError: The body does not arrive.
        """
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > MAX_REQUEST_BYTES:
                return replace(head, is_too_large=True)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionError("the request has no end")
        return replace(head, body=bytes(body))

    async def _next_event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            async with asyncio.timeout(MAX_SILENCE_S):
                self._h11.receive_data(await self._reader.read(_READ_BYTES))
        return event

    async def send(self, event: h11.Event) -> None:
        """Write one event and drain."""
        self._writer.write(self._h11.send(event) or b"")
        await self._writer.drain()

    @property
    def hung_up_at(self) -> float | None:
        """When the client closed the connection, as far as the event loop has seen it."""
        return self._protocol.hung_up_at

    def look(self) -> None:
        """Note what the loop has not seen yet: a client that waits can only have hung up."""
        if self.hung_up_at is None and (self._writer.is_closing() or self._has_input()):
            self._protocol.hung_up_at = time.monotonic()

    def _has_input(self) -> bool:
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def begins_again(self) -> bool:
        """Whether another request can follow on this connection."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True


class Reply:
    """The response to one request."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.has_begun = False

    @property
    def hung_up_at(self) -> float | None:
        """When the client closed the connection, by the monotonic clock; None if it is open."""
        return self._connection.hung_up_at

    def look(self) -> None:
        """Look whether the client has closed the connection, before the event loop does."""
        self._connection.look()

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head; without a content-length the body is chunked."""
        self.has_begun = True
        await self._connection.send(h11.Response(status_code=status, headers=list(headers.items())))

    async def send(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._connection.send(h11.Data(data=data))

    async def end(self) -> None:
        """Send the end of the body."""
        await self._connection.send(h11.EndOfMessage())

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a complete response."""
        await self.begin(status, {**headers, "content-length": str(len(body))})
        await self.send(body)
        await self.end()


def _request(head: h11.Request) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode(), head.target.decode("latin-1"), headers)
