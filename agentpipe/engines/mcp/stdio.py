"""The stdio transport: an MCP server as a child process of the worker, which ends with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core import caps
from agentpipe.core.account import variables_of
from agentpipe.core.background import cancel_background, in_background
from agentpipe.engines.mcp.errors import (
    ConnectionLost,
    McpServerFault,
    TooMuchSent,
    UnreadableAnswer,
)
from agentpipe.engines.mcp.running import note_start
from agentpipe.engines.process.launcher import PASSED_ON, passed_on, shared_launcher
from agentpipe.engines.process.pipes import PipeReader, PipeWriter, read_end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.core.account import Account
    from agentpipe.engines.mcp.transport import ServerListener
    from agentpipe.engines.process.launcher import Child

STDERR_LIMIT_S = 1.0


class StdioTransport:
    """A server's process, with one message per line on stdin and stdout."""

    answers_at_once = False

    def __init__(
        self, server: McpServer, env: Mapping[str, str], account: Account | None = None
    ) -> None:
        self._server, self._account = server, account
        self._env = {**passed_on(PASSED_ON), **variables_of(account), **env, **server.env}
        self._child: Child | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stderr: asyncio.Task[str] | None = None
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self.gone = False

    async def open(self, listener: ServerListener) -> None:
        """Start the server.

        Raises:
            OSError: It cannot be started.
            InfraError: The reaper died.
        """
        folder = self._server.cwd or str(Path.cwd())
        self._child, stdin, stdout, stderr = await shared_launcher().start_piped(
            self._server.command, self._env, folder, self._account
        )
        note_start(self._child)
        self._stderr = in_background(read_end(stderr))
        self._tasks = [
            in_background(self._read(stdout, listener)),
            in_background(self._write(stdin)),
        ]

    async def send(self, message: bytes) -> None:
        """Queue a message, so a server that does not read cannot block the caller."""
        if self.gone:
            raise ConnectionLost("its process has ended")
        if self._outgoing.qsize() >= caps.MAX_UNREAD_MESSAGES:
            most = f"{caps.MAX_UNREAD_MESSAGES:,} messages wait in its stdin (MAX_UNREAD_MESSAGES)"
            raise ConnectionLost(f"it does not read: {most}")
        self._outgoing.put_nowait(message)

    def use_version(self, version: str) -> None:
        """Do nothing: this transport does not depend on the version."""

    def start_over(self) -> None:
        """Do nothing: the session ends with the connection, so it cannot be renewed."""

    async def last_words(self) -> str:
        """The end of the server's stderr if it ends within ``STDERR_LIMIT_S``, else empty."""
        if self._stderr is None:
            return ""
        await asyncio.wait({self._stderr}, timeout=STDERR_LIMIT_S)
        done = self._stderr.done() and not self._stderr.cancelled()
        return self._stderr.result() if done else ""

    async def close(self) -> None:
        """End the server."""
        if self._child is None or self._stderr is None:
            return
        self._child.end()
        for task in self._tasks:
            cancel_background(task)
        await asyncio.wait({*self._tasks, self._stderr}, timeout=STDERR_LIMIT_S)
        cancel_background(self._stderr)

    async def _read(self, number: int, listener: ServerListener) -> None:
        lost: McpServerFault = ConnectionLost("it ended")
        most = caps.MAX_MESSAGE_BYTES
        try:
            async with PipeReader(number, most) as reader:
                while line := await reader.readline():
                    listener.receive(line)
                    await asyncio.sleep(0)  # Many lines can arrive at once.
        except ValueError:  # The rest of a too long line is not a message either.
            lost = TooMuchSent("bytes in a line", most, "MAX_MESSAGE_BYTES")
        except UnreadableAnswer as error:
            lost = error
        finally:
            self.gone = True
            listener.lost(lost)

    async def _write(self, number: int) -> None:
        async with PipeWriter(number) as writer:
            try:
                while True:
                    writer.write(await self._outgoing.get() + b"\n")
                    await writer.drain()
            except ConnectionError:
                pass  # The server closed its stdin; stdout shows whether it is gone.
