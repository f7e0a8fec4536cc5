"""McpSession: one session with one MCP server: its tools, and calls of them.

The transport decides whether a session is healthy. A JSON-RPC error is the server's own answer,
with any code.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from agentpipe import __version__
from agentpipe.core import caps
from agentpipe.core.background import cancel_background, in_background
from agentpipe.engines.mcp import jsonrpc
from agentpipe.engines.mcp.content import ToolContent, content_of
from agentpipe.engines.mcp.errors import (
    ConnectionLost,
    HttpStatus,
    McpServerFault,
    ServerError,
    SessionForgotten,
    ToolMissing,
    TooMuchSent,
    UnreadableAnswer,
)
from agentpipe.engines.mcp.failures import call_failed, not_started
from agentpipe.engines.mcp.server_tools import ServerTool, ToolListing, missing_tools
from agentpipe.engines.mcp.sse_stream import SseTransport
from agentpipe.engines.mcp.stdio import StdioTransport
from agentpipe.engines.mcp.streamable_http import HttpTransport
from agentpipe.engines.mcp.transport import CLOSE_LIMIT_S, ServerListener
from agentpipe.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.core.account import Account
    from agentpipe.engines.mcp.transport import Transport

# The latest version that servers of every specification version accept.
VERSION = "2025-06-18"
# Estimated cost of handling a message, besides its bytes.
_COST_BYTES = 1_000
PING_LIMIT_S = 5.0
# The call's arguments can cause these statuses; all others describe the service.
ANSWERS_TO_THE_CALL = frozenset({400, 405, 406, 409, 411, 413, 414, 415, 422, 431})
NOT_FOUND = 404


class McpSession:
    """A session that starts opening at once, in the background.

    Attributes:
        tools: The server's latest list, limited to tools that the agent may use.
        tools_changed: The server announced that its tool list changed; see ``refresh``.
    """

    def __init__(
        self,
        server: McpServer,
        env: Mapping[str, str],
        start_limit_s: float,
        account: Account | None = None,
    ) -> None:
        self._server, self._start_limit_s = server, start_limit_s
        self._transport = _transport(server, env, account)
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._renewing, self._renewals = asyncio.Lock(), 0
        self._lost, self._unasked_bytes = False, 0
        self.tools: tuple[ServerTool, ...] = ()
        self.tools_changed = False
        self._opening = in_background(self._open())

    @property
    def is_lost(self) -> bool:
        """Whether the server can only be reached with a new session."""
        return self._lost

    async def ready(self) -> None:
        """Wait until the tools are known.

        Raises:
            InfraError: The server does not answer in time.
            AgentFailed: It cannot be started or reached, or refuses.
        """
        done, _ = await asyncio.wait({self._opening}, timeout=self._start_limit_s)
        if not done:
            raise InfraError(
                f"MCP server {self._server.name!r} was not ready within "
                f"{self._start_limit_s:g} s (start_limit_s)"
            )
        try:
            self._opening.result()
        except Exception as error:
            self._lost = True
            raise await not_started(self._server, self._transport, error) from error

    async def call(self, tool: str, arguments: Any, limit_s: float) -> ToolContent:
        """Call a tool; return its result. The tool's own errors are results, too.

        Raises:
            InfraError: The server is gone, does not answer, or its answer is unreadable.
            AgentFailed: The server refuses the call by an HTTP status.
        """
        params = {"name": tool, "arguments": arguments}
        try:
            return content_of(await self._request_again("tools/call", params, limit_s))
        except ServerError as error:
            return ToolContent(f"Error: {error}")
        except TimeoutError as error:
            raise InfraError(
                f"the tool {tool!r} of MCP server {self._server.name!r} did not answer within "
                f"{limit_s:g} s (tool_limit_s)"
            ) from error
        except McpServerFault as error:
            if isinstance(error, HttpStatus) and error.status_code in ANSWERS_TO_THE_CALL:
                return ToolContent(f"Error: {error}")
            await self._raise_failed(error)

    async def refresh(self) -> None:
        """Read the list of tools again if the server announced a change.

        Raises:
            InfraError: It cannot be read.
        """
        if not self.tools_changed:
            return
        try:
            async with asyncio.timeout(self._start_limit_s):
                await self._list()
        except TimeoutError as error:
            raise InfraError(
                f"MCP server {self._server.name!r} did not list its tools within "
                f"{self._start_limit_s:g} s (start_limit_s)"
            ) from error
        except ServerError as error:
            text = f"MCP server {self._server.name!r} does not list its tools: {error}"
            raise InfraError(text) from error
        except McpServerFault as error:
            await self._raise_failed(error)

    async def check(self) -> None:
        """Check that an idle session still works.

        Raises:
            McpServerFault: It does not work.
            TimeoutError: No answer within ``PING_LIMIT_S``.
        """
        with suppress(ServerError):  # A server that does not support ping is alive.
            await self._request("ping", {}, PING_LIMIT_S)

    async def close(self) -> None:
        """Close the session, and end a server that is our child process."""
        cancel_background(self._opening)
        for answering in self._answering:
            cancel_background(answering)
        self._hear_of_loss(ConnectionLost("it ended"))
        await asyncio.wait({in_background(self._transport.close())}, timeout=2 * CLOSE_LIMIT_S)

    # The protocol.

    async def _open(self) -> None:
        await self._transport.open(ServerListener(self._receive, self._hear_of_loss))
        await self._introduce()
        if missing := missing_tools(self._server.tools or (), await self._list()):
            raise ToolMissing(missing)

    async def _introduce(self) -> None:
        client = {"name": "agentpipe", "version": __version__}
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": client}
        result = await self._request("initialize", params)
        chosen = result.get("protocolVersion") if isinstance(result, dict) else None
        self._transport.use_version(chosen if isinstance(chosen, str) else VERSION)
        await self._transport.send(jsonrpc.notification("notifications/initialized"))

    async def _list(self) -> list[ServerTool]:
        """Read all tools of the server; ``tools`` then has those that the agent may use."""
        self.tools_changed = False
        listing = ToolListing()
        params: dict[str, Any] = {}
        while cursor := listing.add(await self._request_again("tools/list", params)):
            params = {"cursor": cursor}
        wanted = self._server.tools
        self.tools = tuple(tool for tool in listing.tools if not wanted or tool.name in wanted)
        return listing.tools

    async def _request_again(self, method: str, params: Any, limit_s: float | None = None) -> Any:
        """Like ``_request``, but retry in a new session if the server forgot this one."""
        renewals = self._renewals
        try:
            return await self._request(method, params, limit_s)
        except SessionForgotten:
            await self._renew(renewals)
            return await self._request(method, params, limit_s)

    async def _renew(self, renewals: int) -> None:
        """Open a new session, unless another call has just opened one."""
        async with self._renewing:
            if renewals != self._renewals:
                return
            self._transport.start_over()
            try:
                async with asyncio.timeout(self._start_limit_s):
                    await self._introduce()
            except (TimeoutError, ServerError) as error:
                why = str(error) or f"no answer within {self._start_limit_s:g} s (start_limit_s)"
                raise ConnectionLost(f"it began no new session: {why}") from error
            self._renewals += 1

    async def _request(self, method: str, params: Any, limit_s: float | None = None) -> Any:
        if self._lost:
            raise ConnectionLost("it was lost before")
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        sending = in_background(self._transport.send(jsonrpc.request(number, method, params)))
        sending.add_done_callback(partial(self._note_sent, reply))
        try:
            async with asyncio.timeout(limit_s):
                return await reply
        except (TimeoutError, asyncio.CancelledError):
            if method == "tools/call":
                self._say_cancelled(number)
            raise
        finally:
            del self._replies[number]
            cancel_background(sending)

    def _note_sent(self, reply: asyncio.Future[Any], sending: asyncio.Task[None]) -> None:
        if sending.cancelled():
            return
        error = sending.exception()
        if error is None and self._transport.answers_at_once:
            error = UnreadableAnswer("its response holds no answer to the request")
        if error is not None and not reply.done():
            reply.set_exception(error if isinstance(error, McpServerFault) else _lost_by(error))

    def _say_cancelled(self, number: int) -> None:
        """Tell the server that it can stop working on a request; optional by the protocol."""
        params = {"requestId": number, "reason": "the run ended"}
        self._answer(jsonrpc.notification("notifications/cancelled", params))

    def _answer(self, message: bytes) -> None:
        if len(self._answering) >= caps.MAX_SERVER_REQUESTS:
            return
        task = in_background(self._transport.send(message))
        self._answering.add(task)
        task.add_done_callback(self._forget_answer)

    def _forget_answer(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled():
            task.exception()  # Retrieve it, so asyncio does not log it; nothing depends on it.

    # Messages from the server.

    def _receive(self, data: bytes) -> None:
        self._unasked_bytes += len(data) + _COST_BYTES
        if self._unasked_bytes > caps.MAX_UNASKED_BYTES:
            most = caps.MAX_UNASKED_BYTES
            raise TooMuchSent("bytes without an answer", most, "MAX_UNASKED_BYTES")
        for message in jsonrpc.read(data, self._replies):
            match message:
                case jsonrpc.Reply():
                    self._settle(message)
                case jsonrpc.UnreadableReply(number, text):
                    self._fail(number, UnreadableAnswer(text))
                case jsonrpc.ServerRequest(number, "ping"):
                    self._answer(jsonrpc.result(number, {}))
                case jsonrpc.ServerRequest(number):
                    self._answer(jsonrpc.refusal(number))
                case jsonrpc.Notification("notifications/tools/list_changed"):
                    self.tools_changed = True

    def _settle(self, reply: jsonrpc.Reply) -> None:
        self._unasked_bytes = 0
        if reply.error is not None:
            self._fail(reply.id, ServerError(reply.error))
        elif not self._replies[reply.id].done():
            self._replies[reply.id].set_result(reply.result)

    def _fail(self, number: int, error: McpServerFault) -> None:
        if not self._replies[number].done():
            self._replies[number].set_exception(error)

    def _hear_of_loss(self, why: McpServerFault) -> None:
        self._lost = True
        for number in self._replies:
            self._fail(number, why)

    # Failures.

    async def _raise_failed(self, error: Exception) -> NoReturn:
        if isinstance(error, HttpStatus):
            self._lost = self._lost or error.status_code == NOT_FOUND
        elif not isinstance(error, UnreadableAnswer):
            self._lost = True
        raise await call_failed(self._server, self._transport, error) from error


def _transport(server: McpServer, env: Mapping[str, str], account: Account | None) -> Transport:
    if server.transport == "stdio":
        return StdioTransport(server, env, account)
    return SseTransport(server) if server.transport == "sse" else HttpTransport(server)


def _lost_by(error: BaseException) -> ConnectionLost:
    lost = ConnectionLost(f"{type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost
