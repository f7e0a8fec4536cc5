"""Toolset: the tools of the MCP servers that one agent's runs use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentpipe.core import trace
from agentpipe.core.masking import shorten
from agentpipe.engines.llm.tool_names import names_of
from agentpipe.engines.mcp.opening import ServerToOpen
from agentpipe.engines.models.conversation import ToolCall, ToolDefinition, ToolResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.core.account import Account
    from agentpipe.engines.llm.config import LlmConfig
    from agentpipe.engines.mcp.sessions import EngineSessions, Lease


class Toolset:
    """The tools of one run's servers."""

    def __init__(self, config: LlmConfig, sessions: EngineSessions) -> None:
        self._config, self._sessions = config, sessions
        self._leases: dict[str, Lease] = {}
        # Server and tool by the name that the model uses.
        self._named: dict[str, tuple[str, str]] = {}

    async def open(
        self,
        servers: Sequence[McpServer],
        env: Mapping[str, str],
        account: Account | None = None,
    ) -> None:
        """Open sessions with these servers for one run.

        Raises:
            InfraError: A server does not answer.
            AgentFailed: A server cannot be started.
        """
        limit_s = self._config.start_limit_s
        targets = [ServerToOpen(each, env, limit_s, account) for each in servers]
        scopes = map(self._config.scope_of, servers)
        wanted = list(zip(targets, scopes, strict=True))
        leases = await self._sessions.join(self).lease(wanted, self)
        self._leases = {server.name: lease for server, lease in zip(servers, leases, strict=True)}

    async def definitions(self) -> list[ToolDefinition]:
        """The current tools, for the model.

        Raises:
            InfraError: A server announced a change of its tools, but does not list them.
        """
        tools = {
            (server, tool.name): tool
            for server, lease in self._leases.items()
            for tool in await lease.tools()
        }
        self._named = names_of(tools)
        return [
            ToolDefinition(name, tools[true].description, tools[true].parameters)
            for name, true in self._named.items()
        ]

    async def call(self, call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool; return its result, cut to ``max_tool_chars``.

        The call is recorded as a span of type ``tool``.

        Raises:
            InfraError: The server is gone, or does not answer.
            AgentFailed: The server refuses the call.
        """
        if call.name not in self._named:
            return ToolResult(call, f"Error: there is no tool {call.name!r}")
        server, tool = self._named[call.name]
        record = {"type": "tool", "class": "llm", "server": server, "tool_name": tool}
        with trace.step({**record, "arguments": arguments}) as step:
            lease = self._leases[server]
            content = await lease.call(tool, arguments, self._config.tool_limit_s)
            step["response"] = content.text
        text = shorten(content.text, self._config.max_tool_chars, "... (cut)")
        # For a model that takes no images, the text still mentions them.
        return ToolResult(call, text, content.images if self._config.takes_images else ())

    async def release(self) -> None:
        """Release the sessions at the end of a run; those that are not kept are closed."""
        leases, self._leases, self._named = self._leases, {}, {}
        await asyncio.gather(*(lease.release() for lease in leases.values()))

    async def close(self) -> None:
        """Close the sessions kept for this agent."""
        await self._sessions.leave(self)
