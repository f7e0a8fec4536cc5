"""Sessions: which MCP session a run gets, and when the session ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from agentpipe.core.background import in_background
from agentpipe.engines.mcp import server_pool
from agentpipe.engines.mcp.kept_sessions import KeptSessions
from agentpipe.engines.mcp.server_pool import ServerPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.engines.mcp.content import ToolContent
    from agentpipe.engines.mcp.opening import Opening, ServerToOpen
    from agentpipe.engines.mcp.server_tools import ServerTool
    from agentpipe.engines.mcp.session import McpSession


class Lease(Protocol):
    """A server as one run uses it, until ``release``."""

    async def tools(self) -> Sequence[ServerTool]:
        """The server's current tools.

        Raises:
            InfraError: The list cannot be read, or the server is gone.
        """

    async def call(self, tool: str, arguments: Any, limit_s: float) -> ToolContent:
        """Call a tool; return its result. Raises like ``McpSession.call``."""

    async def release(self) -> None:
        """End the run's use of the server; call it once."""


class Sessions:
    """The sessions of an engine's agents on one event loop; they end with the last agent."""

    def __init__(self) -> None:
        idle_s = server_pool.IDLE_S
        self._pool, self._kept = ServerPool(idle_s), KeptSessions(idle_s)

    async def lease(
        self, targets: Sequence[tuple[ServerToOpen, str]], agent: object
    ) -> list[Lease]:
        """Lease all servers at once; if one fails, none stays leased.

        Args:
            targets: Servers, each with who shares its session: ``task``, ``agent`` or ``context``.
            agent: The owner of sessions that are kept for an agent.

        Raises:
            InfraError: A server does not answer in time.
            AgentFailed: A server cannot be started or reached, or refuses.
        """
        await self._kept.keep_only(agent, [each for each, scope in targets if scope == "agent"])
        leasing = [asyncio.create_task(self._lease(*each, agent)) for each in targets]
        try:
            return await asyncio.gather(*leasing)
        except BaseException:
            await asyncio.wait({in_background(_undo(leasing))})
            raise

    async def end_agent(self, agent: object) -> None:
        """End the sessions kept for an agent."""
        await self._kept.keep_only(agent)

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(self._pool.close(), self._kept.close())

    async def _lease(self, target: ServerToOpen, scope: str, agent: object) -> Lease:
        if scope == "task":
            opening = await self._pool.take(target)
            return _OfTask(self._pool, target, opening, await opening.session())
        if scope == "agent":
            stack = AsyncExitStack()
            session = await stack.enter_async_context(self._kept.used(target, agent))
            return _OfAgent(stack, session)
        async with self._kept.used(target):
            return _OfContext(self._kept, target)


class _Own:
    """A session that no other run uses at the same time."""

    def __init__(self, session: McpSession) -> None:
        self._session = session

    async def tools(self) -> Sequence[ServerTool]:
        await self._session.refresh()
        return self._session.tools

    async def call(self, tool: str, arguments: Any, limit_s: float) -> ToolContent:
        return await self._session.call(tool, arguments, limit_s)


class _OfTask(_Own):
    def __init__(
        self, pool: ServerPool, target: ServerToOpen, opening: Opening, session: McpSession
    ) -> None:
        super().__init__(session)
        self._pool, self._target, self._opening = pool, target, opening

    async def release(self) -> None:
        await self._pool.give_back(self._target, self._opening)


class _OfAgent(_Own):
    def __init__(self, stack: AsyncExitStack, session: McpSession) -> None:
        super().__init__(session)
        self._stack = stack

    async def release(self) -> None:
        await self._stack.aclose()


class _OfContext:
    """A session shared by concurrent runs; looked up for each call, as it can be replaced."""

    def __init__(self, kept: KeptSessions, target: ServerToOpen) -> None:
        self._kept, self._target = kept, target

    async def tools(self) -> Sequence[ServerTool]:
        async with self._kept.used(self._target) as session:
            await session.refresh()
            return session.tools

    async def call(self, tool: str, arguments: Any, limit_s: float) -> ToolContent:
        async with self._kept.used(self._target) as session:
            return await session.call(tool, arguments, limit_s)

    async def release(self) -> None:
        """Do nothing: no session is held between calls."""


class EngineSessions:
    """The ``Sessions`` of one engine, one per event loop on which its agents run."""

    def __init__(self) -> None:
        self._sessions: dict[asyncio.AbstractEventLoop, Sessions] = {}
        self._agents: dict[asyncio.AbstractEventLoop, set[object]] = {}

    def join(self, agent: object) -> Sessions:
        """Return the sessions of the current event loop, for use until ``leave``."""
        loop = asyncio.get_running_loop()
        self._agents.setdefault(loop, set()).add(agent)
        return self._sessions.setdefault(loop, Sessions())

    async def leave(self, agent: object) -> None:
        """End the agent's own sessions; after the last agent, end all sessions."""
        loop = asyncio.get_running_loop()
        agents = self._agents.get(loop, set())
        if agent not in agents:
            return
        agents.discard(agent)
        if agents:
            await self._sessions[loop].end_agent(agent)
            return
        del self._agents[loop]
        await self._sessions.pop(loop).close()


async def _undo(leasing: Sequence[asyncio.Task[Lease]]) -> None:
    for task in leasing:
        task.cancel()
    await asyncio.wait(leasing)
    for task in leasing:
        if not task.cancelled() and task.exception() is None:
            await task.result().release()
