"""LoopbackServer: HTTP/1.1 for programs on this machine, on the event loop of a worker."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from agentpipe.core.caps import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HOST = "127.0.0.1"
MAX_HEAD_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_TOO_LARGE = b'{"error": {"message": "the request is too large", "type": "invalid_request_error"}}'


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has arrived as a whole; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class LoopbackServer:
    """Passes each request to a handler; one connection serves one request after the other."""

    def __init__(self, handle: Callable[[Request, Reply], Awaitable[None]]) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on a free port, which is returned; the server lives as long as its loop."""
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        try:
            # A cancelled run or loop cancels this, too, which asyncio would log.
            with suppress(h11.ProtocolError, ConnectionError, asyncio.CancelledError):
                while (request := await connection.next_request()) is not None:
                    await self._handle(request, Reply(connection))
                    if not connection.begins_again():
                        break
        finally:
            writer.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def next_request(self) -> Request | None:
        """The next one; None where the client has closed the connection."""
        head, body = None, bytearray()
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_REQUEST_BYTES:
                    await self._refuse()
                    return None
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return _request(head, bytes(body))
            else:
                return None

    async def _next_event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self._h11.receive_data(await self._reader.read(_READ_BYTES))
        return event

    async def _refuse(self) -> None:
        reply = Reply(self)
        await reply.whole(413, {"content-type": "application/json"}, _TOO_LARGE)

    async def send(self, event: h11.Event) -> None:
        """Write one event."""
        self._writer.write(self._h11.send(event) or b"")
        await self._writer.drain()

    def begins_again(self) -> bool:
        """Whether another request may follow."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True


class Reply:
    """The response to one request."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.has_begun = False

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head; without a content-length the body is chunked."""
        self.has_begun = True
        await self._connection.send(h11.Response(status_code=status, headers=list(headers.items())))

    async def send(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._connection.send(h11.Data(data=data))

    async def end(self) -> None:
        """Send the end."""
        await self._connection.send(h11.EndOfMessage())

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send all of it."""
        await self.begin(status, {**headers, "content-length": str(len(body))})
        await self.send(body)
        await self.end()


def _request(head: h11.Request, body: bytes) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode(), head.target.decode("latin-1"), headers, body)
