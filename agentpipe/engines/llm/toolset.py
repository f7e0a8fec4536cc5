"""Toolset: the tools of the servers that one agent's runs use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentpipe.core import trace
from agentpipe.core.masking import shorten
from agentpipe.engines.llm.tool_names import names_of
from agentpipe.engines.mcp.opening import Target
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
        # The server and the tool, by the name that the model uses.
        self._named: dict[str, tuple[str, str]] = {}

    async def open(
        self,
        servers: Sequence[McpServer],
        env: Mapping[str, str],
        account: Account | None = None,
    ) -> None:
        """Get sessions with these servers, for one run.

        Raises:
            InfraError: One does not answer.
            AgentFailed: One cannot be started.
        """
        limit_s = self._config.start_limit_s
        targets = [Target(each, env, limit_s, account) for each in servers]
        scopes = map(self._config.scope_of, servers)
        wanted = list(zip(targets, scopes, strict=True))
        leases = await self._sessions.join(self).lease(wanted, self)
        self._leases = {server.name: lease for server, lease in zip(servers, leases, strict=True)}

    async def definitions(self) -> list[ToolDefinition]:
        """The tools as they are now, for the model.

        Raises:
            InfraError: A server says that its tools have changed, and does not list them.
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
            lease = self._leases[server]
            content = await lease.call(tool, arguments, self._config.tool_limit_s)
            step["response"] = content.text
        text = shorten(content.text, self._config.max_tool_chars, "... (cut)")
        # The text mentions them anyway, for a model that takes no images.
        return ToolResult(call, text, content.images if self._config.takes_images else ())

    async def release(self) -> None:
        """The run has ended: what is not kept for the next one ends."""
        leases, self._leases, self._named = self._leases, {}, {}
        await asyncio.gather(*(lease.release() for lease in leases.values()))

    async def close(self) -> None:
        """The agent ends, and what was kept for it."""
        await self._sessions.leave(self)
