"""Locks of the agents that a worker serves, when it ends while requesting them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq.locks import PORTION, QueueLocks
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.connections.amqp.channel import LOCKED, ChannelClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

TOPOLOGY = Topology("fleet")
THEIRS = TOPOLOGY.lock("theirs")


class Server:
    """Holds the locks of this connection and one of another connection."""

    def __init__(self) -> None:
        self.locks: set[str] = set()
        self.hangs, self.asked, self.goes_on = False, asyncio.Event(), asyncio.Event()
        self._refuses = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Server]:
        yield self

    def lock_exclusively(self, name: str) -> None:
        self._refuses = self._refuses or name == THEIRS
        if not self._refuses:
            self.locks.add(name)

    async def catch_up(self) -> None:
        self.asked.set()
        if self.hangs:
            await self.goes_on.wait()
        if self._refuses:
            self._refuses = False  # The next use gets a new channel.
            raise ChannelClosed("locked", LOCKED)

    async def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._refuses = self._refuses or name == THEIRS
            if not self._refuses:
                self.locks.discard(name)
        await self.catch_up()


def locks_on(server: Server) -> QueueLocks:
    session = SimpleNamespace(is_open=True)
    connection: Any = SimpleNamespace(admin=server, session=session, topology=TOPOLOGY)
    return QueueLocks(connection)


def test_what_another_serves_is_left_out() -> None:
    async def take() -> None:
        server = Server()
        locks = locks_on(server)
        assert await locks.take(["a", "theirs", "b"], "w") == {"a", "b"}
        assert await locks.take(["a", "theirs"], "other") == set()
        await locks.release("w")
        assert server.locks == set()

    asyncio.run(take())


def test_a_worker_that_ends_while_it_asks_keeps_no_lock() -> None:
    """Its connection can stay open: then no other worker could ever serve these agents."""

    async def end() -> None:
        server = Server()
        server.hangs = True
        locks = locks_on(server)
        taking = asyncio.ensure_future(locks.take(["a", "theirs", "b"], "w"))
        await server.asked.wait()
        assert server.locks == {TOPOLOGY.lock("a")}
        server.hangs = False
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert server.locks == set()
        assert await locks.take(["a"], "other") == {"a"}

    asyncio.run(end())


def test_a_worker_that_ends_while_it_asks_for_many_keeps_none() -> None:
    """Portions are locked at the same time: none may be locked after the worker's end."""

    async def end() -> None:
        server = Server()
        server.hangs = True
        locks = locks_on(server)
        many = [f"agent {number}" for number in range(2 * PORTION + 1)]
        taking = asyncio.ensure_future(locks.take(many, "w"))
        await server.asked.wait()
        server.hangs = False
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert server.locks == set()
        assert await locks.take(many, "other") == {*many}

    asyncio.run(end())


def test_a_successor_serves_nothing_that_is_not_locked_yet() -> None:
    """Regression: it served what its predecessor was refused then, beside the other worker."""

    async def succeed() -> None:
        server = Server()
        server.hangs = True
        locks = locks_on(server)
        steps = [locks.take(["theirs"], "w"), locks.hand_over("w", "next")]
        taking, handing = map(asyncio.ensure_future, steps)
        taken = asyncio.ensure_future(locks.take(["theirs"], "next"))
        await server.asked.wait()
        server.goes_on.set()
        assert await taken == set()
        assert await taking == set()
        await handing

    asyncio.run(succeed())
