"""Stdio: the transport to an MCP server that is a child, and ends with this process."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import mcp.types
from mcp.shared.message import SessionMessage

from agentpipe.engines.process.launcher import nursery
from agentpipe.engines.process.pipes import Pen, Pipe, read_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentpipe.config.mcp_servers import Server

MAX_LINE_BYTES = 64 * 1024 * 1024
LAST_WORDS_S = 1.0


class Program:
    """A server's process, from the side of the session.

    Attributes:
        gone: It has closed its stdout.
    """

    def __init__(self, server: Server, env: Mapping[str, str]) -> None:
        self._server, self._env = server, env
        self._listening: asyncio.Task[str] | None = None
        self.gone = False

    async def last_words(self) -> str:
        """The end of what it wrote to stderr, if it has ended or is about to."""
        if self._listening is None:
            return ""
        await asyncio.wait({self._listening}, timeout=LAST_WORDS_S)
        done = self._listening.done() and not self._listening.cancelled()
        return self._listening.result() if done else ""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Start it; what it writes and what it is told, as MCP's sessions want them.

        Raises:
            OSError: It cannot be started.
            InfraError: Nothing can be started.
        """
        (its_in, stdin), (stdout, its_out), (stderr, its_err) = (os.pipe() for _ in range(3))
        cwd = self._server.cwd or str(Path.cwd())
        try:
            child = await nursery().start(
                self._server.command, self._env, (its_in, its_out, its_err), cwd
            )
        except BaseException:
            for number in (stdin, stdout, stderr):
                os.close(number)
            raise
        heard, hear = anyio.create_memory_object_stream[SessionMessage | Exception](64)
        said, say = anyio.create_memory_object_stream[SessionMessage](64)
        self._listening = asyncio.create_task(read_end(stderr))
        hearing = asyncio.create_task(self._hear(stdout, heard))
        saying = asyncio.create_task(_say(stdin, say))
        try:
            yield hear, said
        finally:
            child.end()
            for part in (hearing, saying):
                part.cancel()
            await asyncio.wait({hearing, saying, self._listening}, timeout=LAST_WORDS_S)
            self._listening.cancel()
            for stream in (heard, hear, said, say):
                stream.close()

    async def _hear(self, number: int, heard: Any) -> None:
        """Hand on each message; a line that is none is not the protocol's and is passed over."""
        try:
            async with heard, Pipe(number, MAX_LINE_BYTES) as reader:
                while line := await reader.readline():
                    with suppress(ValueError):
                        message = mcp.types.jsonrpc_message_adapter.validate_json(
                            line, by_name=False
                        )
                        await heard.send(SessionMessage(message))
        finally:
            self.gone = True


async def _say(number: int, say: Any) -> None:
    async with Pen(number) as writer:
        try:
            async for message in say:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            say.close()
