"""The transport "streamable HTTP": each message is a POST whose response has the answer.

https://modelcontextprotocol.io/specification/2025-06-18/basic/transports#streamable-http
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx2

from agentpipe.core.background import cancel_background, in_background
from agentpipe.core.backoff import delay_s
from agentpipe.core.caps import CapExceeded
from agentpipe.engines.http.bodies import chunks, whole
from agentpipe.engines.http.sse import events
from agentpipe.engines.mcp.errors import (
    ConnectionLost,
    HttpStatus,
    SessionForgotten,
    UnreadableAnswer,
)
from agentpipe.engines.mcp.http_client import new_server_client
from agentpipe.engines.mcp.transport import CLOSE_LIMIT_S

if TYPE_CHECKING:
    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.engines.mcp.transport import ServerListener

SESSION = "Mcp-Session-Id"
VERSION = "MCP-Protocol-Version"
ACCEPT = "application/json, text/event-stream"
NOT_FOUND, BAD_REQUEST = 404, 400
# Some servers answer 400 for an unknown session, with one of these messages.
_OF_SESSION = re.compile(rb"session|not (been )?initialized", re.IGNORECASE)
MAX_PAUSE_S = 30.0


class HttpTransport:
    """One session with a server over HTTP."""

    answers_at_once = True

    def __init__(self, server: McpServer) -> None:
        self._url, self._headers = server.url, dict(server.headers)
        self._client = new_server_client()
        self._listening: asyncio.Task[None] | None = None
        self._listener: ServerListener | None = None

    async def open(self, listener: ServerListener) -> None:
        """Keep the listener; nothing is sent before the first message."""
        self._listener = listener

    async def send(self, message: bytes) -> None:
        """Post a message, and pass the response's messages to the listener.

        Raises:
            HttpStatus: The server refuses it; ``SessionForgotten`` if it needs a new session.
            ConnectionLost: The connection failed, possibly in the middle of the answer.
            UnreadableAnswer: The answer is too large.
        """
        headers = {**self._headers, "Content-Type": "application/json", "Accept": ACCEPT}
        request = self._client.stream("POST", self._url, content=message, headers=headers)
        try:
            async with request as response:
                if response.is_error:
                    raise self._refused(response, await whole(response))
                if session := response.headers.get(SESSION):
                    self._headers[SESSION] = session
                await self._pass_on(response)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ConnectionLost(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        except CapExceeded as error:
            raise UnreadableAnswer(str(error)) from error

    def use_version(self, version: str) -> None:
        """Send the version with each further request, and start to listen for notifications."""
        self._headers[VERSION] = version
        if self._listening is None:
            self._listening = in_background(self._listen())

    def start_over(self) -> None:
        """Forget the session id, so the next message opens a new session."""
        self._headers.pop(SESSION, None)

    async def last_words(self) -> str:
        """Return an empty string: the server runs elsewhere, so there is no stderr."""
        return ""

    async def close(self) -> None:
        """End the session on the server; errors and timeouts are ignored."""
        if self._listening is not None:
            cancel_background(self._listening)
        with suppress(httpx2.HTTPError, httpx2.InvalidURL, TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                if SESSION in self._headers:
                    await self._client.delete(self._url, headers=self._headers)
        await self._client.aclose()

    def _refused(self, response: httpx2.Response, body: bytes) -> HttpStatus:
        status = response.status_code
        unknown = status == NOT_FOUND or (status == BAD_REQUEST and _OF_SESSION.search(body))
        if unknown and SESSION in self._headers:
            return SessionForgotten(status, response.headers, body)
        return HttpStatus(status, response.headers, body)

    async def _pass_on(self, response: httpx2.Response) -> None:
        assert self._listener is not None
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            async for event in events(chunks(response)):
                self._listener.receive(event.data)
        elif body := await whole(response):
            self._listener.receive(body)

    async def _listen(self) -> None:
        """Listen for notifications of the server, such as changes of its tools."""
        failures = 0
        while True:
            try:
                heard = await self._hear()
            except (httpx2.HTTPError, httpx2.InvalidURL, CapExceeded):
                heard = True
            if not heard:  # Most servers offer no stream, and answer with an error.
                return
            failures += 1
            await asyncio.sleep(delay_s(failures, 1.0, MAX_PAUSE_S))

    async def _hear(self) -> bool:
        headers = {**self._headers, "Accept": "text/event-stream"}
        async with self._client.stream("GET", self._url, headers=headers) as response:
            kind = response.headers.get("content-type", "")
            if response.is_error or not kind.startswith("text/event-stream"):
                return False
            await self._pass_on(response)
            return True
