"""SharedState: a JSON document that all processes read and change, in a durable queue.

The document is the merge of the messages in its queue, usually one. A change takes them, publishes
the new document, and then acknowledges them, with an exclusive queue as the lock. A crash in
between leaves both old and new messages, so ``merge`` must accept a value that it has merged
before.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from agentpipe.connections.amqp.channel import LOCKED, ChannelClosed
from agentpipe.connections.amqp.message import OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.amqp.message import Declaration

V = TypeVar("V")
# A lock holder needs some milliseconds; after this time it counts as hanging.
LOCK_S = 15.0
RETRY_S = 0.01
# More messages than this are merged into one.
MANY = 20
# The header of messages that the server removes after a time.
KEPT = "agentpipe-kept-ms"

log = logging.getLogger(__name__)


def values_of(kind: type[V]) -> Callable[[Any], Mapping[str, V]]:
    """Make a ``decode`` for documents with values of one type."""

    def decode(values: Any) -> Mapping[str, V]:
        if not isinstance(values, dict) or not all(isinstance(it, kind) for it in values.values()):
            raise TypeError(kind)
        return values

    return decode


class SharedState(Generic[V]):
    """One document, a mapping from strings to values.

    Args:
        merge: Combines the earlier and the later of two values of one key.
        decode: Converts the JSON of a message to the document; raises if it is invalid.
        encode: Converts the document to types that ``orjson`` can write.
        kept_ms: How long added values stay, by the server's clock; None if forever. The document is
            only added to and read then.
    """

    def __init__(
        self,
        session: Session,
        queue: Declaration,
        merge: Callable[[V, V], V],
        decode: Callable[[Any], Mapping[str, V]],
        encode: Callable[[Mapping[str, V]], Any] = lambda values: values,
        *,
        kept_ms: int | None = None,
    ) -> None:
        self._session, self._queue = session, queue
        self._merge, self._decode, self._encode = merge, decode, encode
        self._lock, self._kept_ms = f"{queue.name}.lock", kept_ms
        self._owned = self._has_skipped = False
        # The server's lock excludes other connections only.
        self._busy = asyncio.Lock()

    async def own(self) -> bool:
        """Keep the lock until the connection ends; False while another connection has it."""
        async with self._busy:
            if not self._owned:
                try:
                    channel = await self._locked(0.0)
                except ChannelClosed as error:
                    if error.code == LOCKED:
                        return False
                    raise
                self._owned = True
                channel.close()
        return True

    async def read(self) -> dict[str, V]:
        """Read the document."""
        return (await self.change(lambda _: None))[0]

    async def read_soon(self, patience_s: float) -> dict[str, V]:
        """Read the document; empty if another connection has the lock for that long."""
        try:
            return (await self.change(lambda _: None, patience_s=patience_s))[0]
        except ChannelClosed as error:
            if error.code == LOCKED:
                return {}
            raise

    async def change(
        self, change: Callable[[dict[str, V]], None], *, patience_s: float = LOCK_S
    ) -> tuple[dict[str, V], bool]:
        """Change the document in place; returns it, and whether it has changed."""
        async with self._busy:
            channel = await self._locked(patience_s)
            try:
                return await self._exchange(channel, change)
            finally:
                if not self._owned:
                    await channel.call("queue_delete", self._lock)
                channel.close()

    async def add(self, values: Mapping[str, V]) -> None:
        """Merge values into the document without reading it, and without its lock."""
        channel = await self._session.channel()
        try:
            await channel.declare(self._queue)
            await self._publish(channel, values)
        finally:
            channel.close()

    async def _locked(self, patience_s: float) -> Channel:
        ends = time.monotonic() + patience_s
        while True:
            channel = await self._session.channel()
            try:
                await channel.call("queue_declare", self._lock, exclusive=True)
            except ChannelClosed as error:
                if error.code != LOCKED or time.monotonic() >= ends:
                    raise
                await asyncio.sleep(RETRY_S * (1 + random.random()))  # noqa: S311 - not a secret
            else:
                return channel

    async def _exchange(
        self, channel: Channel, change: Callable[[dict[str, V]], None]
    ) -> tuple[dict[str, V], bool]:
        await channel.declare(self._queue)
        found: dict[str, V] = {}
        messages = tag = 0
        while delivery := await channel.get(self._queue.name):
            if self._kept_ms is not None and KEPT not in delivery.headers:
                channel.ack(delivery.tag)  # Written by another program, it would stay forever.
                continue
            messages, tag = messages + 1, delivery.tag
            found = self._with(found, delivery.body)
        before = dict(found)
        change(found)
        changed = found != before
        if changed or (messages > MANY and self._kept_ms is None):
            await self._publish(channel, found)
            channel.ack(tag, all_before=True)
        elif messages:
            channel.requeue_all()
        return found, changed

    def _with(self, found: Mapping[str, V], body: bytes) -> dict[str, V]:
        """Merge a message into the document; skips it if it is foreign."""
        merged = dict(found)
        try:
            for key, value in self._decode(orjson.loads(body)).items():
                merged[key] = self._merge(merged[key], value) if key in merged else value
        except (ValueError, TypeError, LookupError, AttributeError):
            if not self._has_skipped:
                log.warning("skipped what others put into the queue %s", self._queue.name)
            self._has_skipped = True
            return dict(found)
        return merged

    async def _publish(self, channel: Channel, values: Mapping[str, V]) -> None:
        body = orjson.dumps(self._encode(values))
        headers = {} if self._kept_ms is None else {KEPT: self._kept_ms}
        message = OutgoingMessage(self._queue.name, body, headers, expires_ms=self._kept_ms)
        if await channel.publish([message]) != ["taken"]:
            raise ChannelClosed("the server refuses to store shared state")
