"""The stdio transport to an MCP server that is a child of the worker and ends with it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import mcp.types
from mcp.shared.message import SessionMessage

from agentpipe.engines.process.launcher import shared_launcher
from agentpipe.engines.process.pipes import PipeReader, PipeWriter, read_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentpipe.config.mcp_servers import McpServer

MAX_LINE_BYTES = 64 * 1024 * 1024
STDERR_LIMIT_S = 1.0


class StdioServer:
    """A server's process.

    Attributes:
        gone: It has closed its stdout.
    """

    def __init__(self, server: McpServer, env: Mapping[str, str]) -> None:
        self._server, self._env = server, env
        self._stderr: asyncio.Task[str] | None = None
        self.gone = False

    async def stderr_end(self) -> str:
        """The end of its stderr, if it has ended or is about to; else empty."""
        if self._stderr is None:
            return ""
        await asyncio.wait({self._stderr}, timeout=STDERR_LIMIT_S)
        done = self._stderr.done() and not self._stderr.cancelled()
        return self._stderr.result() if done else ""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Start it; its output and input as the streams of an MCP session.

        Raises:
            OSError: It cannot be started.
            InfraError: The reaper died.
        """
        child, stdin, stdout, stderr = await shared_launcher().start_piped(
            self._server.command, self._env, self._server.cwd or str(Path.cwd())
        )
        output_in, output = anyio.create_memory_object_stream[SessionMessage | Exception](64)
        input_in, input_ = anyio.create_memory_object_stream[SessionMessage](64)
        self._stderr = asyncio.create_task(read_end(stderr))
        reading = asyncio.create_task(self._read(stdout, output_in))
        writing = asyncio.create_task(_write(stdin, input_))
        try:
            yield output, input_in
        finally:
            child.end()
            for part in (reading, writing):
                part.cancel()
            await asyncio.wait({reading, writing, self._stderr}, timeout=STDERR_LIMIT_S)
            self._stderr.cancel()
            for stream in (output_in, output, input_in, input_):
                stream.close()

    async def _read(self, number: int, output: Any) -> None:
        """Pass on each message; other lines are not the protocol's, and are skipped."""
        try:
            async with output, PipeReader(number, MAX_LINE_BYTES) as reader:
                while line := await reader.readline():
                    with suppress(ValueError):
                        message = mcp.types.jsonrpc_message_adapter.validate_json(
                            line, by_name=False
                        )
                        await output.send(SessionMessage(message))
        finally:
            self.gone = True


async def _write(number: int, messages: Any) -> None:
    async with PipeWriter(number) as writer:
        try:
            async for message in messages:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            messages.close()
