"""A scratch topic beside a sink's own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agentpipe.connections.amqp.address import server_of
from agentpipe.connections.scratch import scratch_on
from agentpipe.connections.url import Url, with_parameters
from agentpipe.sinks.rabbitmq.topic import PARAMETERS, Topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.connections.amqp.connection import Session
    from agentpipe.connections.scratch import Scratch


def scratch_of(url: str, name: str, remove: Callable[[str], None]) -> Scratch:
    """A separate topic; ``remove`` is called with its URL."""
    parsed = Url.parse(url, PARAMETERS)
    own = with_parameters(url, topic=f"{Topic.of(parsed).name}-{name}")
    server = server_of(parsed)
    return scratch_on(
        own, partial(remove, own), (server.host, server.port), tls=server.tls is not None
    )


async def remove_all(session: Session, topic: Topic) -> None:
    """Delete the topic's exchange and queues; those of readers go with their readers."""
    channel = await session.channel()
    await channel.delete([topic.queue.name, topic.stream.name])
    await channel.call("exchange_delete", topic.name)
    channel.close()
