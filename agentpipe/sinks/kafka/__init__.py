"""KafkaSink: the stream as a Kafka topic, keyed by sample group, or by task without a group.

Repeats of a task have the same key and therefore the same partition: one reader gets them all. The
producer is idempotent, so its own retries make no repeats.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

from kafka import codec
from kafka.errors import ThrottlingQuotaExceededError

from agentpipe.errors import ConfigError, RecordsRefused, Unreachable
from agentpipe.sinks.base import check_group
from agentpipe.sinks.kafka.address import KafkaAddress
from agentpipe.sinks.kafka.errors import TOO_LARGE, reason, unreachable
from agentpipe.sinks.kafka.health import examine
from agentpipe.sinks.kafka.keys import message_of
from agentpipe.sinks.kafka.producer import Producer
from agentpipe.sinks.kafka.reader import KafkaReader
from agentpipe.sinks.kafka.topic import prepare
from agentpipe.sinks.truncate import truncate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kafka.errors import KafkaError

    from agentpipe.connections.health import Finding
    from agentpipe.connections.scratch import Scratch
    from agentpipe.sinks.base import Record, Start


class KafkaSink:
    """The ``Sink`` over ``kafka://host:port/topic``."""

    def __init__(self, url: str) -> None:
        self._address = KafkaAddress.parse(url)
        self._max_bytes = prepare(self._address)
        self._producer: Producer | None = None
        self._publishing = threading.Lock()
        self._closed = False

    def publish(self, records: Sequence[Record]) -> None:
        """See ``Sink``."""
        with self._publishing, unreachable(self._address.shown):
            self._refuse_if_closed()
            try:
                self._publish(records)
            except (RecordsRefused, ThrottlingQuotaExceededError):
                raise
            except BaseException:
                # Records in flight can still arrive: start with a new producer.
                self._drop_producer()
                self._max_bytes = 0
                raise

    def examine(self) -> list[Finding]:
        """Check the brokers and the topic."""
        return examine(self._address)

    @staticmethod
    def check(url: str) -> None:
        """See ``ChecksUrl``."""
        _refuse_missing_package(KafkaAddress.parse(url))

    @staticmethod
    def scratch(url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.sinks.kafka.scratch import scratch_of

        return scratch_of(url, name)

    def follow(self, group: str | None, start: Start) -> KafkaReader:
        check_group(group)
        self._refuse_if_closed()
        _refuse_missing_package(self._address)
        return KafkaReader(self._address, group, start)

    def close(self) -> None:
        self._closed = True
        with self._publishing:
            self._drop_producer()

    def _publish(self, records: Sequence[Record]) -> None:
        if self._producer is None:
            _refuse_missing_package(self._address)
            # After a failure the topic can be missing or recreated.
            self._max_bytes = self._max_bytes or prepare(self._address)
            self._producer = Producer(self._address, self._max_bytes)
        limit = self._max_bytes
        remedy = f"raise max.message.bytes of the topic {self._address.topic}, now about {limit:,}"
        refused = self._producer.send(
            [
                message_of(index, record, truncate(record, limit, remedy))
                for index, record in enumerate(records)
            ]
        )
        if refused:
            self._refuse(refused, remedy)

    def _refuse(self, refused: Mapping[int, KafkaError], remedy: str) -> NoReturn:
        """Report the refused records; the others are confirmed."""
        error = next(iter(refused.values()))
        raise RecordsRefused(
            f"{self._address.shown}: {reason(error)} ({type(error).__name__})",
            left=list(refused),
            too_large=isinstance(error, TOO_LARGE),
            remedy=remedy,
        ) from error

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unreachable(f"{self._address.shown}: this sink is closed")


def _refuse_missing_package(address: KafkaAddress) -> None:
    """Refuse a missing codec: a reader would skip every record that our workers compress."""
    kind = address.compression
    if kind is not None and not getattr(codec, f"has_{kind}")():
        raise ConfigError(f"{address.shown}: Libraries for {kind} compression codec not found")
