"""Proxy: forwards connections to servers, and can cut them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Collection

HOST = "127.0.0.1"
CHUNK = 65_536
START_S = 10.0
# SOCKS 5, RFC 1928.
_VERSION, _CONNECT, _IPV4, _NAME, _IPV6 = 5, 1, 1, 3, 4
_SUCCEEDED, _NOT_ALLOWED = 0, 2


class Proxy:
    """Forwards connections to a server, in its own thread.

    Args:
        servers: Servers to connect to: always the first, or with ``by_name`` the one that the
            client names by SOCKS 5, if it is in the list.

    Attributes:
        port: The port that it listens on, on this machine only.
        cuts: Number of connections that it has cut.
    """

    def __init__(self, servers: Collection[tuple[str, int]], *, by_name: bool = False) -> None:
        self.port = self.cuts = 0
        self._servers, self._by_name = tuple(servers), by_name
        self._refuses = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._listening, self._stopping = threading.Event(), asyncio.Event()
        self._meetings: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(START_S):
            raise OSError("the proxy does not listen")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop.close()

    def refuse(self) -> None:
        """Close all connections now, and each new one, until ``accept``."""
        self._loop.call_soon_threadsafe(self._cut)

    def accept(self) -> None:
        """Forward new connections again."""
        self._loop.call_soon_threadsafe(setattr, self, "_refuses", False)

    def _cut(self) -> None:
        self._refuses = True
        self.cuts += len(self._meetings)
        for meeting in self._meetings:
            meeting.cancel()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._begin, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        server.close()
        for meeting in self._meetings:
            meeting.cancel()
        await asyncio.gather(*self._meetings, return_exceptions=True)

    def _begin(self, reader: StreamReader, writer: StreamWriter) -> None:
        meeting = asyncio.ensure_future(self._meet(reader, writer))
        self._meetings.add(meeting)
        meeting.add_done_callback(self._meetings.discard)

    async def _meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client until either side closes, or the connection is cut."""
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                if self._refuses or not await self._passes(reply=False):
                    return
                host, port = await self._target(reader, writer)
                replies, requests = await asyncio.open_connection(host, port)
                try:
                    await self._carry_both(reader, requests, replies, writer)
                finally:
                    requests.transport.abort()
        finally:
            writer.transport.abort()

    async def _carry_both(
        self,
        reader: StreamReader,
        requests: StreamWriter,
        replies: StreamReader,
        writer: StreamWriter,
    ) -> None:
        ways = (self._carry(reader, requests), self._carry(replies, writer, reply=True))
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(
        self, reader: StreamReader, writer: StreamWriter, *, reply: bool = False
    ) -> None:
        with suppress(OSError):
            while (data := await reader.read(CHUNK)) and await self._passes(reply=reply):
                writer.write(data)
                await writer.drain()

    async def _passes(self, *, reply: bool) -> bool:  # noqa: ARG002 - others refuse some
        """Whether to forward a chunk of data; if not, the connection is closed."""
        return True

    async def _target(self, reader: StreamReader, writer: StreamWriter) -> tuple[str, int]:
        if not self._by_name:
            return self._servers[0]
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(bytes((_VERSION, 0)))  # No login: only these servers can be reached.
        target = await _asked(reader)
        allowed = target in self._servers
        writer.write(
            bytes((_VERSION, _SUCCEEDED if allowed else _NOT_ALLOWED, 0, _IPV4)) + bytes(6)
        )
        await writer.drain()
        if not allowed:
            raise ConnectionRefusedError(f"{target} is not among the servers")
        return target


async def _asked(reader: StreamReader) -> tuple[str, int]:
    """Read the host and port of a SOCKS request."""
    version, command, _, kind = await reader.readexactly(4)
    if (version, command) != (_VERSION, _CONNECT):
        raise ConnectionRefusedError("not a request to connect")
    if kind == _NAME:
        (length,) = await reader.readexactly(1)
        host = (await reader.readexactly(length)).decode("ascii", "replace")
    elif kind == _IPV6:
        host = socket.inet_ntop(socket.AF_INET6, await reader.readexactly(16))
    else:
        host = socket.inet_ntop(socket.AF_INET, await reader.readexactly(4))
    (port,) = struct.unpack("!H", await reader.readexactly(2))
    return host, port
