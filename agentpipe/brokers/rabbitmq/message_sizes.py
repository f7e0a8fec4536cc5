"""MessageSizes: finds out which message sizes the server accepts before it matters.

AMQP does not report a server's ``max_message_size``. A larger message closes its channel, and the
channel's deliveries are redelivered: they would run twice. So each new maximum size is first tried
on a separate channel, with zeros that no queue receives. The server's error contains the limit.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.message import OutgoingMessage

if TYPE_CHECKING:
    from agentpipe.connections.amqp.connection import Session

# Every server accepts this size.
SAFE_BYTES = 16 * 1024
REMEDY = "raise max_message_size in rabbitmq.conf, or have the agent return and trace less"
# No queue has this name.
_NOWHERE = "agentpipe-try-size"
_REFUSAL = re.compile(r"message size \d{1,20} .{0,200}larger than .{0,200}max size (\d{1,20})")


class MessageSizes:
    """The sizes that one server accepts; on one connection."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._limit: int | None = None
        self._largest_bytes = SAFE_BYTES
        self._trying = asyncio.Lock()

    async def limit_below(self, size: int) -> int | None:
        """The server's limit in bytes; None while it is unknown and ``size`` fits."""
        async with self._trying:
            if self._limit is None and size > self._largest_bytes:
                await self._try(size)
            return self._limit

    def fits(self, size: int) -> bool:
        """Whether a message of that size can be published, as far as we know."""
        return self._limit is None or size <= self._limit

    async def _try(self, size: int) -> None:
        channel = await self._session.channel()
        nothing = OutgoingMessage(_NOWHERE, bytes(size), {}, lasting=False, mandatory=False)
        try:
            await channel.publish([nothing])
        except ChannelClosed as error:
            self._limit = _limit_in(str(error))
            if self._limit is None:
                raise
        else:
            self._largest_bytes = size
            channel.close()


def _limit_in(text: str) -> int | None:
    """Parse the limit from the server's error; None for any other error."""
    found = _REFUSAL.search(text)
    return int(found[1]) if found else None
