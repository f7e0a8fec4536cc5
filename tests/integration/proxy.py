"""A TCP proxy that loses replies: the server executes a request, but its reply never arrives."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from agentpipe.chaos import proxy
from brokers.ports import HOST

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter


class Proxy(proxy.Proxy):
    """Forwards to a local port; sometimes closes a connection instead of forwarding a reply.

    Args:
        odds: The probability of losing a reply, while ``may_lose`` is above 0.
        by_name: Clients name the target by SOCKS 5.

    Attributes:
        may_lose: How many more replies can be lost.
        lost: How many replies were lost.
    """

    def __init__(self, target_port: int, *, odds: float, by_name: bool = False) -> None:
        super().__init__([(HOST, target_port)], by_name=by_name)
        self.may_lose = self.lost = 0
        self._odds, self._rng = odds, random.Random(1)
        self._open = asyncio.Event()
        self._open.set()
        self._keeping: asyncio.Event | None = None

    def cut(self) -> None:
        """Hold back all data in both directions until ``mend``; connections stay open."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """Forward the data held back, and all later data."""
        self._loop.call_soon_threadsafe(self._open.set)

    def drop_clients(self) -> None:
        """Close all connections to clients; those to the server stay open until ``let_go``."""
        self._keeping = asyncio.Event()
        self._loop.call_soon_threadsafe(self._drop_clients)

    def _drop_clients(self) -> None:
        for meeting in self._meetings:
            meeting.cancel()

    def let_go(self) -> None:
        """Close the connections to the server whose clients were dropped."""
        if self._keeping is not None:
            self._loop.call_soon_threadsafe(self._keeping.set)
        self._keeping = None

    async def _carry_both(
        self,
        reader: StreamReader,
        requests: StreamWriter,
        replies: StreamReader,
        writer: StreamWriter,
    ) -> None:
        try:
            await super()._carry_both(reader, requests, replies, writer)
        except asyncio.CancelledError:
            if (keeping := self._keeping) is None:
                raise
            writer.transport.abort()
            await keeping.wait()

    async def _passes(self, *, reply: bool) -> bool:
        await self._open.wait()
        loses = reply and self.may_lose > 0 and self._rng.random() < self._odds
        self.may_lose -= loses
        self.lost += loses
        return not loses
