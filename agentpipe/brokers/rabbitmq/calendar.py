"""Calendar: how far schedules have come, for the one process that may send them.

The marks are one message in a durable queue. No ids are remembered here, so that what two
schedulers send would run twice: an exclusive queue lets one have the calendar, as long as its
connection lives. A crash in the middle leaves two messages, which the next one merges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from agentpipe.connections.amqp.channel import LOCKED, Lost
from agentpipe.connections.amqp.message import Letter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentpipe.brokers.rabbitmq.names import Names
    from agentpipe.connections.amqp.channel import Channel


async def progress(
    names: Names, connection: Callable[[], Awaitable[Channel]], name: str, mark: int
) -> int | None:
    """See ``Calendar`` of the seam."""
    channel = await connection()
    try:
        if not await _is_ours(channel, names):
            return None
        return await _raise(channel, names, name, mark)
    finally:
        channel.close()


async def _is_ours(channel: Channel, names: Names) -> bool:
    """The lock is the connection's, and stays when the channel is closed."""
    try:
        await channel.call("queue_declare", f"{names.calendar.name}.lock", exclusive=True)
    except Lost as error:
        if error.code == LOCKED:
            return False
        raise
    return True


async def _raise(channel: Channel, names: Names, name: str, mark: int) -> int:
    await channel.declare(names.calendar)
    tags, marks = [], dict[str, int]()
    while delivery := await channel.get(names.calendar.name):
        tags.append(delivery.tag)
        for known, value in orjson.loads(delivery.body).items():
            marks[known] = max(marks.get(known, 0), value)
    if marks.get(name, -1) >= mark and len(tags) == 1:
        return marks[name]  # What was taken goes back when the channel is closed.
    marks[name] = max(marks.get(name, 0), mark)
    await channel.publish([Letter(names.calendar.name, orjson.dumps(marks), {})])
    for tag in tags:
        channel.ack(tag)
    await channel.catch_up()
    return marks[name]
