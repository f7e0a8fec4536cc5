"""The older transport "HTTP with SSE": one stream for all answers, a POST for each request.

https://modelcontextprotocol.io/specification/2024-11-05/basic/transports#http-with-sse
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx2

from agentpipe.core.background import cancel_background, in_background
from agentpipe.core.caps import CapExceeded
from agentpipe.engines.http.bodies import refuse_encodings, whole
from agentpipe.engines.http.sse import events
from agentpipe.engines.mcp.errors import (
    ConnectionLost,
    HttpStatus,
    McpServerFault,
    UnreadableAnswer,
)
from agentpipe.engines.mcp.http_client import new_server_client

if TYPE_CHECKING:
    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.engines.mcp.transport import ServerListener


class SseTransport:
    """The SSE stream of one server."""

    answers_at_once = False

    def __init__(self, server: McpServer) -> None:
        self._url, self._headers = server.url, dict(server.headers)
        self._client = new_server_client()
        self._reading: asyncio.Task[None] | None = None
        self._address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self, listener: ServerListener) -> None:
        """Connect, and wait for the address to post requests to.

        Raises:
            HttpStatus: The server refuses.
            ConnectionLost: It cannot be reached, or sends no address.
        """
        self._reading = in_background(self._read(listener))
        await self._address

    async def send(self, message: bytes) -> None:
        """Post a message.

        Raises:
            HttpStatus: The server refuses it.
            ConnectionLost: The connection failed.
            UnreadableAnswer: The refusal is too large.
        """
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            address = self._address.result()
            request = self._client.stream("POST", address, content=message, headers=headers)
            async with request as response:
                if response.is_error:
                    raise await _refused(response)
        except httpx2.HTTPError as error:
            raise ConnectionLost(f"{type(error).__name__}: {error}") from error
        except CapExceeded as error:
            raise UnreadableAnswer(str(error)) from error

    def use_version(self, version: str) -> None:
        """Do nothing: this transport does not depend on the version."""

    def start_over(self) -> None:
        """Do nothing: the session ends with the connection, so it cannot be renewed."""

    async def last_words(self) -> str:
        """Return an empty string: the server runs elsewhere, so there is no stderr."""
        return ""

    async def close(self) -> None:
        """Close the stream."""
        if self._reading is not None:
            cancel_background(self._reading)
        await self._client.aclose()

    async def _read(self, listener: ServerListener) -> None:
        lost: McpServerFault = ConnectionLost("the stream ended")
        try:
            await self._read_stream(listener)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            lost = ConnectionLost(f"{type(error).__name__}: {error}")
        except CapExceeded as error:
            lost = UnreadableAnswer(str(error))
        except (HttpStatus, UnreadableAnswer) as error:
            lost = error
        finally:
            self._fail(lost)
            listener.lost(lost)

    async def _read_stream(self, listener: ServerListener) -> None:
        headers = {**self._headers, "Accept": "text/event-stream"}
        async with self._client.stream("GET", self._url, headers=headers) as response:
            if response.is_error:
                raise await _refused(response)
            refuse_encodings(response)
            async for event in events(response.aiter_bytes()):
                if self._address.done():
                    listener.receive(event.data)
                else:
                    self._address.set_result(self._checked(event.data))

    def _checked(self, data: bytes) -> str:
        """The address, which must be on the same server, because requests contain credentials."""
        address = urljoin(self._url, data.decode(errors="replace").strip())
        if urlsplit(address)[:2] != urlsplit(self._url)[:2]:
            raise UnreadableAnswer("it names another server as the address of requests")
        return address

    def _fail(self, error: Exception) -> None:
        if not self._address.done():
            self._address.set_exception(error)
            self._address.exception()  # ``open`` raises it, unless it was cancelled.


async def _refused(response: httpx2.Response) -> HttpStatus:
    return HttpStatus(response.status_code, response.headers, await whole(response))
