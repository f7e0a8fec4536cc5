"""MQFactory: producers and consumers of a topic, with MCP-Universe's interface."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from agentpipe.connections.environment import MQ_TYPES, PEER_GROUP, unknown_mq_type
from agentpipe.core.task import new_id
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentpipe.sinks.base import Sink

BATCH = 100


class Producer:
    """Publishes messages to a topic; the caller closes it."""

    def __init__(self, sink: Sink, serializer: Callable[[Any], bytes]) -> None:
        self._sink, self._serializer = sink, serializer

    def send(self, message: Any, key: str | None = None) -> bool:
        """Publish a message; return True once the server has confirmed it.

        Raises:
            Unreachable: The server has not confirmed it.
        """
        self._sink.publish([Record(key or new_id(), self._serializer(message))])
        return True

    def flush(self) -> None:
        """Do nothing: ``send`` already waits for the confirmation."""

    def close(self) -> None:
        """Close the connection."""
        self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Consumer:
    """Reads messages of a topic for a group; the caller closes it."""

    def __init__(self, sink: Sink, deserializer: Callable[[bytes], Any], group: str) -> None:
        self._sink, self._deserializer = sink, deserializer
        self._reader = sink.follow(group, "beginning")

    def consume_messages(
        self, timeout_ms: int = 1000, max_messages: int | None = None
    ) -> Iterator[Any]:
        """Yield messages as they arrive, at most ``max_messages``; without a limit, forever.

        ``timeout_ms`` is the wait of each poll. A message counts as consumed when the caller asks
        for the next one.
        """
        number = 0
        while max_messages is None or number < max_messages:
            wanted = BATCH if max_messages is None else min(BATCH, max_messages - number)
            for record in self._reader.poll(wanted, timeout_ms / 1000):
                yield self._deserializer(record.payload)
                self._reader.commit(record)
                number += 1

    def __iter__(self) -> Iterator[Any]:
        return self.consume_messages()

    def close(self) -> None:
        """Return unread messages to the group, and close the connection."""
        self._reader.close()
        self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MQFactory:
    """Creates producers and consumers by type and topic."""

    @staticmethod
    def create_producer(
        mq_type: str,
        topic: str,
        value_serializer: Callable[[Any], bytes] | None = None,
        host: str | None = None,
        port: int | None = None,
    ) -> Producer:
        """Create a producer; without a ``value_serializer``, messages are bytes, strings or JSON.

        Raises:
            ConfigError: The ``mq_type`` is unknown.
            Unreachable: The server does not answer.
        """
        return Producer(_opened(mq_type, topic, host, port), value_serializer or _encoded)

    @staticmethod
    def create_consumer(
        mq_type: str,
        topic: str,
        value_deserializer: Callable[[bytes], Any] | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        group: str = PEER_GROUP,
    ) -> Consumer:
        """Create a consumer; by default messages are bytes. Raises as ``create_producer``."""
        return Consumer(_opened(mq_type, topic, host, port), value_deserializer or bytes, group)


def _opened(mq_type: str, topic: str, host: str | None, port: int | None) -> Sink:
    kind = str(getattr(mq_type, "value", mq_type)).lower()
    if kind not in MQ_TYPES:
        raise ConfigError(unknown_mq_type(kind))
    variables = kind.upper()
    environ = {
        name: value for name, value in os.environ.items() if name.startswith(f"{variables}_")
    }
    given = {"MQ_TOPIC": topic, f"{variables}_HOST": host, f"{variables}_PORT": port}
    environ |= {name: str(value) for name, value in given.items() if value}
    return open_sink(Settings.from_env(environ, kind))


def _encoded(message: Any) -> bytes:
    import orjson

    if isinstance(message, bytes):
        return message
    return message.encode() if isinstance(message, str) else orjson.dumps(message)
