"""Toolset: the MCP sessions of one agent, and the tools of their servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentpipe.core import trace
from agentpipe.engines.llm.session import McpSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.engines.llm.config import LlmConfig
    from agentpipe.engines.llm.tools import Tool


class Toolset:
    """All sessions of one agent.

    Attributes:
        tools: By the names that the model uses.
    """

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self._servers: tuple[McpServer, ...] = ()
        self._sessions: dict[str, McpSession] = {}
        self.tools: dict[str, Tool] = {}

    async def open(self, servers: Sequence[McpServer], env: Mapping[str, str]) -> None:
        """Open sessions with exactly these servers; the same servers again stay open.

        Raises:
            InfraError: One does not answer.
            AgentFailed: One cannot be started.
        """
        if tuple(servers) == self._servers:
            return
        await self.close()
        for server in servers:
            self._sessions[server.name] = McpSession(server, env, self._config.start_limit_s)
        for session in self._sessions.values():
            await session.ready()
            self.tools.update({tool.name: tool for tool in session.tools})
        self._servers = tuple(servers)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The tool's result, cut to ``max_tool_chars``; recorded as a span of type ``tool``."""
        tool = self.tools.get(name)
        if tool is None:
            return f"Error: there is no tool {name!r}"
        record = {
            "type": "tool",
            "class": "llm",
            "server": tool.server,
            "tool_name": tool.tool,
            "arguments": arguments,
        }
        with trace.step(record) as step:
            session = self._sessions[tool.server]
            answer = await session.call(tool, arguments, self._config.tool_limit_s)
            step["response"] = answer
        limit = self._config.max_tool_chars
        return answer if len(answer) <= limit else f"{answer[:limit]}... (cut)"

    async def close(self) -> None:
        """Close all sessions."""
        sessions, self._sessions = self._sessions, {}
        self._servers, self.tools = (), {}
        await asyncio.gather(*(session.close() for session in sessions.values()))
