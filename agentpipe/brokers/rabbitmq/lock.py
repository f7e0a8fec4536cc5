"""Lock: an exclusive queue, which one connection at a time can have."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentpipe.connections.amqp.channel import LOCKED, Lost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentpipe.connections.amqp.channel import Channel

# Each holder needs some milliseconds; whoever holds it for longer hangs.
LOCK_S = 15.0
RETRY_S = 0.01


@asynccontextmanager
async def locked(connection: Callable[[], Awaitable[Channel]], name: str) -> AsyncIterator[Channel]:
    """A channel of a connection that holds the lock; within a connection it excludes nobody."""
    channel = await _locked(connection, name)
    try:
        yield channel
    finally:
        await channel.call("queue_delete", name)
        channel.close()


async def _locked(connection: Callable[[], Awaitable[Channel]], name: str) -> Channel:
    ends = time.monotonic() + LOCK_S
    while True:
        channel = await connection()
        try:
            await channel.call("queue_declare", name, exclusive=True)
        except Lost as error:
            if error.code != LOCKED or time.monotonic() > ends:
                raise
            await asyncio.sleep(RETRY_S * (1 + random.random()))  # noqa: S311 - no secret
        else:
            return channel
