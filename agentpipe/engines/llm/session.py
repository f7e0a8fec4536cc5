"""McpSession: a session with one MCP server, and the calls of its tools."""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import mcp
import mcp.types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from agentpipe.core.failures import is_infra, is_permanent
from agentpipe.core.set_up import NO_PROGRAM
from agentpipe.core.shortage import shortage_of
from agentpipe.engines.llm.content import text_of
from agentpipe.engines.llm.stdio import StdioServer
from agentpipe.engines.llm.tools import Tool, tool_of
from agentpipe.engines.process.launcher import PASSED_ON, passed_on
from agentpipe.errors import AgentFailed, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.mcp_servers import McpServer

CLOSE_LIMIT_S = 2.0


class McpSession:
    """A session with one server, opened at once; it lives in an asyncio task until closed."""

    def __init__(self, server: McpServer, env: Mapping[str, str], start_limit_s: float) -> None:
        self._server, self._env, self._start_limit_s = server, env, start_limit_s
        self._process: StdioServer | None = None
        self._ready: asyncio.Future[mcp.ClientSession] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self.tools: list[Tool] = []
        # The runs that open and close a session are different asyncio tasks, and MCP's clients
        # must be closed by the task that opened them.
        self._life = asyncio.create_task(self._live(), context=contextvars.Context())

    async def ready(self) -> None:
        """Wait until its tools are known.

        Raises:
            InfraError: The server does not answer in time.
            AgentFailed: It cannot be started, or ended at once.
        """
        done, _ = await asyncio.wait({self._ready}, timeout=self._start_limit_s)
        if not done:
            limit = f"{self._start_limit_s:g} s"
            raise InfraError(f"MCP server {self._server.name!r} was not ready within {limit}")
        self._ready.result()

    async def call(self, tool: Tool, arguments: Mapping[str, Any], limit_s: float) -> str:
        """The tool's result as a string; the tool's own errors are results too.

        Raises:
            InfraError: The server is gone, or does not answer.
        """
        calling = asyncio.create_task(
            self._ready.result().call_tool(tool.tool, dict(arguments), read_timeout_seconds=limit_s)
        )
        try:
            await asyncio.wait({calling, self._life}, return_when=asyncio.FIRST_COMPLETED)
            if calling.done():
                return text_of(calling.result())
        except mcp.MCPError as error:
            if self._life.done() or self._is_gone(error):
                raise await self._gone() from error
            return f"Error: {error.message}"
        finally:
            calling.cancel()
        raise await self._gone()

    async def close(self) -> None:
        """Close the session and end a server that is our child."""
        self._stop.set()
        if not self._ready.done():
            self._life.cancel()
        await asyncio.wait({self._life}, timeout=CLOSE_LIMIT_S)
        self._life.cancel()
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()

    async def _gone(self) -> InfraError:
        stderr = await self._stderr()
        return InfraError(f"MCP server {self._server.name!r} was lost during a call{stderr}")

    def _is_gone(self, error: mcp.MCPError) -> bool:
        """Whether the server is lost; some servers send CONNECTION_CLOSED and live on."""
        if error.code == mcp.types.REQUEST_TIMEOUT:
            return True
        ended = self._process is None or self._process.gone
        return error.code == mcp.types.CONNECTION_CLOSED and ended

    async def _stderr(self) -> str:
        end = await self._process.stderr_end() if self._process else ""
        return f": {end}" if end else ""

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                streams = await self._open(stack)
                session = await stack.enter_async_context(mcp.ClientSession(*streams))
                await session.initialize()
                self.tools = await self._list(session)
                self._ready.set_result(session)
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - raised by ``ready``
            if not self._ready.done():
                self._ready.set_exception(await self._failure(error))

    async def _open(self, stack: AsyncExitStack) -> tuple[Any, Any]:
        server = self._server
        if server.transport == "stdio":
            env = {**passed_on(PASSED_ON), **self._env, **server.env}
            self._process = StdioServer(server, env)
            return await stack.enter_async_context(self._process.streams())
        headers = dict(server.headers)
        if server.transport == "sse":
            return await stack.enter_async_context(sse_client(server.url, headers))
        client = await stack.enter_async_context(create_mcp_http_client(headers))
        streams = streamable_http_client(server.url, http_client=client)
        read, write, *_ = await stack.enter_async_context(streams)
        return read, write

    async def _list(self, session: mcp.ClientSession) -> list[Tool]:
        tools: list[mcp.types.Tool] = []
        page = await session.list_tools()
        tools += page.tools
        while page.next_cursor:
            params = mcp.types.PaginatedRequestParams(cursor=page.next_cursor)
            page = await session.list_tools(params=params)
            tools += page.tools
        wanted = self._server.tools
        return [
            tool_of(self._server.name, tool) for tool in tools if not wanted or tool.name in wanted
        ]

    async def _failure(self, error: Exception) -> Exception:
        cause = _innermost(error)
        name = self._server.name
        if isinstance(cause, FileNotFoundError):
            return AgentFailed(
                f"MCP server {name!r}: no such program {self._server.command[0]!r}: "
                "install it on the workers",
                kind="McpServerError",
                permanent=True,
            )
        shortage = shortage_of(cause)
        return AgentFailed(
            f"MCP server {name!r} cannot be used: {cause}{await self._stderr()}",
            kind="McpServerError",
            infra=is_infra(cause),
            permanent=not shortage and (self._has_refused(cause) or is_permanent(cause)),
            shortage=shortage,
        )

    def _has_refused(self, error: BaseException) -> bool:
        """Whether its program cannot be started here, or ended before it was ready."""
        ended = self._process is not None and self._process.gone
        return ended or (isinstance(error, OSError) and error.errno in NO_PROGRAM)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
