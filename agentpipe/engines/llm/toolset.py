"""Toolset: the MCP sessions of one agent, and the tools of their servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentpipe.core import trace
from agentpipe.engines.llm.conversation import Image, ToolCall, ToolDefinition, ToolResult
from agentpipe.engines.llm.tool_names import names_of
from agentpipe.engines.mcp.session import McpSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.engines.llm.config import LlmConfig
    from agentpipe.engines.mcp.content import ToolContent


class Toolset:
    """The sessions with the servers of one agent's tasks."""

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self._servers: tuple[McpServer, ...] = ()
        self._sessions: dict[str, McpSession] = {}
        # The server and the tool, by the name that the model uses.
        self._named: dict[str, tuple[str, str]] = {}

    async def open(self, servers: Sequence[McpServer], env: Mapping[str, str]) -> None:
        """Open sessions with exactly these servers; those that are open and well stay so.

        Raises:
            InfraError: One does not answer.
            AgentFailed: One cannot be started.
        """
        if tuple(servers) != self._servers:
            await self.close()
            self._servers = tuple(servers)
        for server in servers:
            await self._open(server, env)
        for session in self._sessions.values():
            await session.ready()

    async def _open(self, server: McpServer, env: Mapping[str, str]) -> None:
        session = self._sessions.get(server.name)
        if session is not None and session.is_lost:  # It ended while it was idle.
            await session.close()
            session = None
        if session is None:
            self._sessions[server.name] = McpSession(server, env, self._config.start_limit_s)

    async def definitions(self) -> list[ToolDefinition]:
        """The tools as they are now, for the model.

        Raises:
            InfraError: A server says that its tools have changed, and does not list them.
        """
        for session in self._sessions.values():
            await session.refresh()
        tools = {
            (server, tool.name): tool
            for server, session in self._sessions.items()
            for tool in session.tools
        }
        self._named = names_of(tools)
        return [
            ToolDefinition(name, tools[true].description, tools[true].parameters)
            for name, true in self._named.items()
        ]

    async def call(self, call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        """The result, cut to ``max_tool_chars``; recorded as a span of type ``tool``.

        Raises:
            InfraError: The server is gone, or does not answer.
            AgentFailed: It refuses.
        """
        if call.name not in self._named:
            return ToolResult(call, f"Error: there is no tool {call.name!r}")
        server, tool = self._named[call.name]
        record = {"type": "tool", "class": "llm", "server": server, "tool_name": tool}
        with trace.step({**record, "arguments": arguments}) as step:
            session = self._sessions[server]
            content = await session.call(tool, arguments, self._config.tool_limit_s)
            step["response"] = content.text
        limit, text = self._config.max_tool_chars, content.text
        cut = text if len(text) <= limit else f"{text[:limit]}... (cut)"
        return ToolResult(call, cut, self._images(content))

    def _images(self, content: ToolContent) -> tuple[Image, ...]:
        """Those of a result, for a model that takes images; the text mentions them anyway."""
        shown = content.pictures if self._config.takes_images else ()
        return tuple(Image(each.media_type, each.data) for each in shown)

    async def close(self) -> None:
        """Close all sessions."""
        sessions, self._sessions = self._sessions, {}
        self._servers, self._named = (), {}
        await asyncio.gather(*(session.close() for session in sessions.values()))
