"""Opening: an MCP session from its wait for the start gate until it is closed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.background import cancel_background, in_background
from agentpipe.engines.mcp.session import McpSession
from agentpipe.engines.mcp.start_gate import START_GATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.core.account import Account


@dataclass(frozen=True, slots=True, repr=False)
class ServerToOpen:
    """A server with the context that it is started for; values can be credentials."""

    server: McpServer
    env: Mapping[str, str]
    start_limit_s: float
    account: Account | None = None

    @property
    def is_process(self) -> bool:
        """Whether this process starts the server."""
        return self.server.transport == "stdio"

    @property
    def key(self) -> object:
        """Equal for targets that can share a server: the same server, credentials and user."""
        server = self.server
        own = (server.name, server.transport, server.command, server.cwd, server.url, server.tools)
        given = (server.env, server.headers, self.env)
        return own, self.account, tuple(frozenset(each.items()) for each in given)


class Opening:
    """A session that opens in the background, and stays open until ``close``."""

    def __init__(self, target: ServerToOpen, *, ahead: bool = False) -> None:
        self._target, self._ahead = target, ahead
        self._session: McpSession | None = None
        self._closing: asyncio.Task[None] | None = None
        self._task = in_background(self._open())

    @property
    def has_begun(self) -> bool:
        """Whether its server is starting or has started."""
        return self._session is not None

    @property
    def is_of_use(self) -> bool:
        """Whether it is an open session, or can still become one."""
        if not self._task.done():
            return True
        ended = self._task.cancelled() or self._task.exception() is not None
        return not ended and self._session is not None and not self._session.is_lost

    async def session(self) -> McpSession:
        """Return the session once its tools are known.

        Raises:
            InfraError: The server does not answer in time.
            AgentFailed: It cannot be started or reached, or refuses.
        """
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """Close it, ready or not; cancelling the caller does not stop the closing."""
        if self._closing is None:
            cancel_background(self._task)
            self._closing = in_background(self._close())
        await asyncio.wait({self._closing})

    async def _open(self) -> McpSession:
        async with AsyncExitStack() as stack:
            if self._target.is_process:
                await stack.enter_async_context(START_GATE.turn(ahead=self._ahead))
            target = self._target
            self._session = McpSession(
                target.server, target.env, target.start_limit_s, target.account
            )
            try:
                await self._session.ready()
            except Exception:
                await self._session.close()
                raise
        return self._session

    async def _close(self) -> None:
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # ``session`` has raised it for its callers.
        if self._session is not None:
            await self._session.close()
