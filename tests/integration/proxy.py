"""A TCP proxy that loses replies: the server does what a client asks, and the reply never comes."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from brokers.ports import HOST

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

CHUNK = 65_536


class Proxy:
    """Forwards to a local port, and sometimes closes a connection instead of passing on a reply.

    Args:
        odds: The probability that a reply is lost, while ``may_lose`` allows it.

    Attributes:
        port: Where it listens.
        may_lose: How many more replies may be lost.
        lost: How many are.
    """

    def __init__(self, target_port: int, *, odds: float) -> None:
        self.port = self.may_lose = self.lost = 0
        self._target_port, self._odds = target_port, odds
        self._rng = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._listening, self._stopping = threading.Event(), asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Pass nothing on, either way, until ``mend``: connections stay open and are silent."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """Pass on what has come meanwhile, and all that follows."""
        self._loop.call_soon_threadsafe(self._open.set)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._meet, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client until either side closes, or a reply is lost."""
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._open.wait()
                replies, requests = await asyncio.open_connection(HOST, self._target_port)
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
        ways = (self._carry(reader, requests), self._carry(replies, writer, lossy=True))
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(
        self, reader: StreamReader, writer: StreamWriter, *, lossy: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                if lossy and self._loses():
                    return
                writer.write(data)
                await writer.drain()

    def _loses(self) -> bool:
        loses = self.may_lose > 0 and self._rng.random() < self._odds
        self.may_lose -= loses
        self.lost += loses
        return loses
