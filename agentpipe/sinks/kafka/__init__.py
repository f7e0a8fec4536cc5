"""KafkaSink: the stream as a Kafka topic, keyed by group of samples or else by task.

Repeats of a task have its key and so its partition: the same reader gets both. The producer is
idempotent, so its own retries make no repeats.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from kafka import KafkaProducer, codec
from kafka.errors import KafkaError, UnknownError

from agentpipe.errors import ConfigError, RecordsRefused, Unreachable
from agentpipe.sinks.kafka.address import KafkaAddress
from agentpipe.sinks.kafka.errors import REFUSALS, TOO_LARGE, reason, unreachable
from agentpipe.sinks.kafka.health import examine
from agentpipe.sinks.kafka.keys import place_of
from agentpipe.sinks.kafka.reader import KafkaReader
from agentpipe.sinks.kafka.topic import ANSWER_MS, CONNECT_MS, prepare
from agentpipe.sinks.truncate import truncate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.connections.health import Finding
    from agentpipe.connections.scratch import Scratch
    from agentpipe.sinks.base import Record, Start

# Of one request, before compression.
BATCH_BYTES = 256 * 1024
# Until a record is confirmed, all retries included.
DELIVERY_MS = 12_000
# A publication ends this; only what is sent again in halves waits so long.
LINGER_MS = 200
# Closing waits for records in flight, which DELIVERY_MS bounds.
CLOSE_S = 5.0
WAIT_S = DELIVERY_MS / 1000 + CLOSE_S


class KafkaSink:
    """The ``Sink`` over ``kafka://host:port/topic``."""

    def __init__(self, url: str) -> None:
        self._address = KafkaAddress.parse(url)
        self._max_bytes = prepare(self._address)
        self._producer: KafkaProducer | None = None
        self._closed = False

    def publish(self, records: Sequence[Record]) -> None:
        """See ``Sink``."""
        self._refuse_if_closed()
        try:
            with unreachable(self._address.shown):
                self._publish(records)
        except Unreachable:
            # Records in flight may or may not arrive: start with a new producer.
            self._drop_producer()
            self._max_bytes = 0
            raise

    def examine(self) -> list[Finding]:
        """Findings on the brokers and the topic."""
        return examine(self._address)

    @staticmethod
    def scratch(url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.sinks.kafka.scratch import scratch_of

        return scratch_of(url, name)

    def follow(self, group: str | None, start: Start) -> KafkaReader:
        self._refuse_if_closed()
        _refuse_unreadable(self._address)
        return KafkaReader(self._address, group, start)

    def close(self) -> None:
        self._closed = True
        self._drop_producer()

    def _publish(self, records: Sequence[Record]) -> None:
        if self._producer is None:
            # After a failure the topic may be gone, or a new one.
            self._max_bytes = self._max_bytes or prepare(self._address)
            self._producer = _producer(self._address, self._max_bytes)
        producer, topic = self._producer, self._address.topic
        remedy = f"raise max.message.bytes of the topic {topic}, now about {self._max_bytes:,}"
        # Send all before waiting for any, so that they travel together: without the flush each
        # partition's first record would go alone.
        futures = [
            producer.send(topic, truncate(record, self._max_bytes, remedy), **place_of(record))
            for record in records
        ]
        with suppress(UnknownError):  # A batch was too large and is sent in halves.
            producer.flush(WAIT_S)
        refused: dict[int, KafkaError] = {}
        for index, future in enumerate(futures):
            try:
                future.get(timeout=WAIT_S)
            except REFUSALS as error:
                refused[index] = error
        if refused:
            self._refuse(refused, remedy)

    def _refuse(self, refused: Mapping[int, KafkaError], remedy: str) -> NoReturn:
        """Say which; the others are confirmed."""
        self._drop_producer()  # Its numbers of records have a gap now.
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
            with suppress(KafkaError):
                producer.close(timeout=CLOSE_S)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unreachable(f"{self._address.shown}: this sink is closed")


def _refuse_unreadable(address: KafkaAddress) -> None:
    """A reader skips what it cannot decompress, and that would be all that our workers send."""
    kind = address.compression
    if kind is not None and not getattr(codec, f"has_{kind}")():
        raise ConfigError(f"{address.shown}: Libraries for {kind} compression codec not found")


def _producer(address: KafkaAddress, max_bytes: int) -> KafkaProducer:
    try:
        return KafkaProducer(
            **address.client,
            acks="all",
            enable_idempotence=True,
            compression_type=address.compression,
            batch_size=min(BATCH_BYTES, max_bytes),
            linger_ms=LINGER_MS,
            max_request_size=2**31 - 1,  # The topic's limit counts.
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=CONNECT_MS,
            request_timeout_ms=ANSWER_MS,
            delivery_timeout_ms=DELIVERY_MS,
            max_block_ms=ANSWER_MS,
            reconnect_backoff_max_ms=1_000,
            metrics_enabled=False,
        )
    except AssertionError as error:  # A package for the compression is missing.
        raise ConfigError(f"{address.shown}: {error}") from error
