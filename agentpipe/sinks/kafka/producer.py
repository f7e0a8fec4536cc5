"""Producer: sends records to a topic and waits until all in-sync replicas have them.

Each leader gets one request, with one batch per partition. The producer is idempotent: an
unconfirmed batch is resent under the same sequence numbers, and a broker that has it drops it. One
batch per partition is in flight at a time, which preserves the order.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from kafka import errors as kafka
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from agentpipe.sinks.kafka.connection import DELIVERY_S, TopicConnection
from agentpipe.sinks.kafka.errors import REFUSALS, TOO_LARGE
from agentpipe.sinks.kafka.keys import partition_of
from agentpipe.sinks.kafka.record_batch import OVERHEAD_BYTES, Compression, Numbers, encode
from agentpipe.sinks.kafka.topic import ANSWER_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kafka.future import Future

    from agentpipe.sinks.kafka.address import KafkaAddress
    from agentpipe.sinks.kafka.record_batch import BatchRecord

# Size limit of one batch, before compression.
BATCH_BYTES = 256 * 1024
ALL_REPLICAS = -1
# Versions of the produce request: the oldest with this batch format, and the newest we know.
OLDEST, NEWEST = 3, 9
NEWEST_IDENTITY = 4
NUMBERS_END = 2**31

_WRONG_TIME = (
    "the topic %s refuses this machine's time: results are published without one, and reading from "
    "a time does not find them. Set the clock; the topic's limits are "
    "message.timestamp.after.max.ms and message.timestamp.before.max.ms"
)

log = logging.getLogger(__name__)

_Topic = ProduceRequest.TopicProduceData
_Partition = _Topic.PartitionProduceData


@dataclass(slots=True)
class _Lane:
    """The batches for one partition, in order.

    Attributes:
        has_time: Whether they carry this machine's time.
    """

    partition: int
    batches: deque[Sequence[BatchRecord]] = field(default_factory=deque)
    has_time: bool = True

    def halve(self) -> None:
        """Split the first batch in two."""
        batch = self.batches.popleft()
        half = len(batch) // 2
        self.batches.extendleft((batch[half:], batch[:half]))


class Producer:
    """Sends in the caller's thread; not thread-safe.

    Unusable after an error: it is unknown which records arrived.
    """

    def __init__(self, address: KafkaAddress, max_bytes: int) -> None:
        """Connect; ``max_bytes`` is the topic's limit of a record."""
        self._topic = address.topic
        self._compression = Compression.named(address.compression)
        self._batch_bytes = min(BATCH_BYTES, max_bytes)
        self._connection = TopicConnection(address)
        # By partition: the sequence number of the next record.
        self._next: defaultdict[int, int] = defaultdict(int)
        self._has_said_time = False
        try:
            self._connection.open()
            self._identity = self._connection.patiently(self._identify)
        except BaseException:
            self.close()
            raise

    def send(self, messages: Sequence[BatchRecord]) -> dict[int, kafka.KafkaError]:
        """Send all messages; returns the errors of refused ones by place, once all are settled.

        Raises:
            ThrottlingQuotaExceededError: A quota is used up for longer than ``DELIVERY_S``. Nothing
                was sent; this producer remains usable.
            KafkaError: Any other error; see the class.
        """
        self._connection.rest(DELIVERY_S)
        refused: dict[int, kafka.KafkaError] = {}
        lanes = self._lanes(messages)
        while any(lane.batches for lane in lanes):
            # What was sent before must not be sent again, however long the rest has to wait.
            self._connection.rest(math.inf)
            self._connection.patiently(partial(self._send_first, lanes, refused))
        return refused

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _identify(self) -> tuple[int, int]:
        """The id and epoch under which the brokers know this producer."""
        request = InitProducerIdRequest(
            transactional_id=None,
            transaction_timeout_ms=ANSWER_MS,
            producer_id=-1,
            producer_epoch=-1,
            max_version=NEWEST_IDENTITY,
        )
        answer = self._connection.answer(self._connection.send(request))
        if answer.error_code:
            raise kafka.for_code(answer.error_code)
        return answer.producer_id, answer.producer_epoch

    def _lanes(self, messages: Sequence[BatchRecord]) -> list[_Lane]:
        number = self._connection.patiently(self._connection.partitions)
        found: dict[int, list[BatchRecord]] = {}
        for message in messages:
            found.setdefault(partition_of(message.key, number), []).append(message)
        return [
            _Lane(partition, deque(_in_batches(its, self._batch_bytes)))
            for partition, its in found.items()
        ]

    def _send_first(self, lanes: Sequence[_Lane], refused: dict[int, kafka.KafkaError]) -> None:
        """Send the first batch of each lane, and remove settled batches from the lanes.

        Raises:
            KafkaError: A batch was not settled; retriable if it can be sent again.
        """
        by_leader: dict[int | None, list[_Lane]] = {}
        for lane in filter(lambda lane: lane.batches, lanes):
            by_leader.setdefault(self._connection.leader(lane.partition), []).append(lane)
        orphans = by_leader.pop(None, ())
        sent = [(its, self._produce(node, its)) for node, its in by_leader.items()]
        errors = [error for its, future in sent for error in self._settle(its, future, refused)]
        if orphans:
            errors.append(kafka.LeaderNotAvailableError(self._topic))
        # Permanent errors take precedence over retriable ones.
        for error in sorted(errors, key=lambda each: isinstance(each, kafka.RetriableError)):
            raise error

    def _produce(self, node: int | None, lanes: Sequence[_Lane]) -> Future:
        batches = [_Partition(index=lane.partition, records=self._encoded(lane)) for lane in lanes]
        request = ProduceRequest(
            transactional_id=None,
            acks=ALL_REPLICAS,
            timeout_ms=ANSWER_MS,
            topic_data=[_Topic(name=self._topic, partition_data=batches)],
            min_version=OLDEST,
            max_version=NEWEST,
        )
        return self._connection.send(request, node)

    def _encoded(self, lane: _Lane) -> bytearray:
        numbers = Numbers(*self._identity, self._next[lane.partition])
        batch = lane.batches[0]
        return encode(batch, numbers, self._compression, has_time=lane.has_time)

    def _settle(
        self, lanes: Sequence[_Lane], future: Future, refused: dict[int, kafka.KafkaError]
    ) -> Iterator[kafka.KafkaError]:
        try:
            (topic,) = self._connection.answer(future).responses
        except kafka.RetriableError as error:
            yield error
            return
        answers = {each.index: each for each in topic.partition_responses}
        for lane in lanes:
            yield from self._settle_batch(lane, answers[lane.partition], refused)

    def _settle_batch(
        self, lane: _Lane, answer: Any, refused: dict[int, kafka.KafkaError]
    ) -> Iterator[kafka.KafkaError]:
        kind = kafka.for_code(answer.error_code)
        if kind in (kafka.NoError, kafka.DuplicateSequenceNumberError):
            self._next[lane.partition] += len(lane.batches.popleft())
            self._next[lane.partition] %= NUMBERS_END
        elif kind in TOO_LARGE and len(lane.batches[0]) > 1:
            lane.halve()
        elif kind is kafka.InvalidTimestampError and lane.has_time:
            self._say_wrong_time()
            lane.has_time = False  # The clock is wrong, not the records.
        elif kind in REFUSALS:
            error = kind(answer.error_message)
            refused.update((message.place, error) for message in lane.batches.popleft())
        else:
            yield kind(answer.error_message)

    def _say_wrong_time(self) -> None:
        if not self._has_said_time:
            log.warning(_WRONG_TIME, self._topic)
        self._has_said_time = True


def _in_batches(messages: Sequence[BatchRecord], max_bytes: int) -> Iterator[Sequence[BatchRecord]]:
    """Batches in order, each within the limit or of a single message."""
    batch: list[BatchRecord] = []
    size = 0
    for message in messages:
        its = len(message.key) + len(message.value) + len(message.headers) + OVERHEAD_BYTES
        if batch and size + its > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += its
    if batch:
        yield batch
