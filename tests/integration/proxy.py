"""A TCP proxy that loses replies: the server does what a client asks, and the reply never comes."""

from __future__ import annotations

import asyncio
import random

from agentpipe.chaos import proxy
from brokers.ports import HOST


class Proxy(proxy.Proxy):
    """Forwards to a local port, and sometimes closes a connection instead of passing on a reply.

    Args:
        odds: The probability that a reply is lost, while ``may_lose`` allows it.
        by_name: Clients name the port by SOCKS 5.

    Attributes:
        may_lose: How many more replies may be lost.
        lost: How many are.
    """

    def __init__(self, target_port: int, *, odds: float, by_name: bool = False) -> None:
        super().__init__([(HOST, target_port)], by_name=by_name)
        self.may_lose = self.lost = 0
        self._odds, self._rng = odds, random.Random(1)
        self._open = asyncio.Event()
        self._open.set()

    def cut(self) -> None:
        """Pass nothing on, either way, until ``mend``: connections stay open and are silent."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """Pass on what has come meanwhile, and all that follows."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def _passes(self, *, reply: bool) -> bool:
        await self._open.wait()
        loses = reply and self.may_lose > 0 and self._rng.random() < self._odds
        self.may_lose -= loses
        self.lost += loses
        return not loses
