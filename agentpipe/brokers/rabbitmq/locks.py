"""Locks: which worker of this process serves which unit.

A unit is an agent, or all agents of a concurrency group. Only the worker that has its lock serves
it, over all processes: the server gives a lock to one connection, until that connection ends.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.core.portions import portions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.rabbitmq.connection import Connection
    from agentpipe.connections.amqp.channel import Channel

# Units to lock per channel. The server makes the queues of several channels at the same time.
PORTION = 50
# Agents to take over at the same time: first a few, whose tasks start meanwhile.
FIRST, AT_ONCE = PORTION, 20 * PORTION


class UnitLocks(ABC):
    """The locks of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._topology = connection, connection.topology
        self._owners: dict[str, object] = {}
        # While a unit is being locked, it has an owner that does not have the lock yet.
        self._taking = asyncio.Lock()

    async def take(self, units: Sequence[str], owner: object) -> set[str]:
        """Lock units for ``owner``; returns those of the units that it now serves."""
        async with self._taking:
            return await self._take(units, owner)

    async def _take(self, units: Sequence[str], owner: object) -> set[str]:
        free = [unit for unit in units if unit not in self._owners]
        self._owners.update(dict.fromkeys(free, owner))  # Keeps other workers of this process away.
        locked: Sequence[str] = ()
        try:
            locked = await self._locked_in_portions(free)
        except BaseException:  # The connection can outlive the owner, and would keep the locks.
            await self._unlock(free)
            raise
        finally:
            for unit in {*free}.difference(locked):
                self._owners.pop(unit, None)
        return {unit for unit in units if self._owners.get(unit) is owner}

    async def _locked_in_portions(self, units: Sequence[str]) -> list[str]:
        """Lock all portions at the same time; returns or raises once none is under way."""
        portions = map(self._locked, portions_of(units, PORTION))
        found = await asyncio.gather(*portions, return_exceptions=True)
        locked: list[str] = []
        for each in found:
            if isinstance(each, BaseException):
                raise each
            locked += each
        return locked

    async def _locked(self, units: Sequence[str]) -> Sequence[str]:
        """Lock all units at once, or else those of each half that no other connection has."""
        if not units or await self._lock(units):
            return units
        half = len(units) // 2
        if not half:
            return ()
        return [*await self._locked(units[:half]), *await self._locked(units[half:])]

    async def release(self, owner: object, units: Iterable[str] | None = None) -> None:
        """Release these units of ``owner``, or all of them."""
        mine = [unit for unit, its in self._owners.items() if its is owner]
        mine = mine if units is None else [unit for unit in units if unit in mine]
        for unit in mine:
            del self._owners[unit]
        if mine:
            await self._unlock(mine)

    async def hand_over(self, owner: object, successor: object) -> None:
        """Have another worker of this connection own what ``owner`` has locked."""
        async with self._taking:
            for unit in [unit for unit, its in self._owners.items() if its is owner]:
                self._owners[unit] = successor

    @abstractmethod
    async def _lock(self, units: Sequence[str]) -> bool:
        """Lock all units in one round trip, or none if another connection has any of them."""

    @abstractmethod
    async def _unlock(self, units: Sequence[str]) -> None:
        """Unlock those of the units that this connection has locked."""


class ConsumerLocks(UnitLocks):
    """Locks by exclusive consumers, each of a queue that stays empty.

    The queue outlives the lock for a while: to create and delete one for each lock takes the server
    ten times as long as everything else that a worker needs to serve an agent.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        # A refused lock closes its channel, with all locks on it.
        self._channels: dict[str, Channel] = {}

    async def _lock(self, units: Sequence[str]) -> bool:
        session = self._connection.session
        channel = await session.channel()
        try:
            for unit in units:
                channel.lock(self._topology.lock_queue(unit), session.close)
            await channel.catch_up()
        except ChannelClosed:
            if session.is_open:
                return False
            raise
        except BaseException:
            channel.close()
            raise
        self._channels.update(dict.fromkeys(units, channel))
        return True

    async def _unlock(self, units: Sequence[str]) -> None:
        found = {unit: self._channels.pop(unit) for unit in units if unit in self._channels}
        for channel in {*found.values()}.difference(self._channels.values()):
            channel.close()
        for unit, channel in found.items():
            if channel.is_open:
                channel.unlock(self._topology.lock(unit))
        for channel in {*found.values()}:
            if channel.is_open:
                await channel.catch_up()


class QueueLocks(UnitLocks):
    """Locks by exclusive queues, which need no node but the connection's own."""

    async def _lock(self, units: Sequence[str]) -> bool:
        connection = self._connection
        async with connection.admin.use() as channel:
            try:
                for unit in units:
                    channel.lock_exclusively(self._topology.lock(unit))
                await channel.catch_up()
            except ChannelClosed:
                if connection.session.is_open:
                    return False
                raise
        return True

    async def _unlock(self, units: Sequence[str]) -> None:
        """Delete the locks; if another connection has some, which closes the channel, each alone.

        The first, empty deletion waits for earlier requests, which can close the channel too.
        """
        names = [self._topology.lock(unit) for unit in units]
        await self._delete([])
        if not await self._delete(names):
            for name in names:
                await self._delete([name])

    async def _delete(self, names: Sequence[str]) -> bool:
        with suppress(ChannelClosed):
            async with self._connection.admin.use() as channel:
                await channel.delete(names)
            return True
        return False


def locks_of(connection: Connection) -> UnitLocks:
    """The locks of a connection: replicated queues must be served while a node is down."""
    return QueueLocks(connection) if connection.topology.quorum else ConsumerLocks(connection)
