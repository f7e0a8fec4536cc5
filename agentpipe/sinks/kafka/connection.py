"""Connection: a producer's requests to the brokers of a topic, in the caller's thread.

The client library opens the connections, with TLS, logins and proxies, and knows the leader of each
partition. It does its work while a caller waits here: there is no background thread.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Any, TypeVar

from kafka import TopicPartition
from kafka import errors as kafka
from kafka.future import Future
from kafka.net.compat import KafkaNetClient

from agentpipe.sinks.kafka.topic import ANSWER_MS, CONNECT_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.sinks.kafka.address import KafkaAddress

_T = TypeVar("_T")
# Time limit for retries of a request, until a final answer.
DELIVERY_S = 12.0
RETRY_MS = 100
METADATA_MS = 1_000


class TopicConnection:
    """Connections to all brokers of a topic; not thread-safe. All errors are kafka-python's."""

    def __init__(self, address: KafkaAddress) -> None:
        self._topic = address.topic
        self._client = KafkaNetClient(
            **address.client, request_timeout_ms=ANSWER_MS, reconnect_backoff_max_ms=1_000
        )
        self._cluster = self._client.cluster
        self._cluster.config["allow_auto_create_topics"] = False

    def open(self) -> None:
        """Connect and fetch the topic's partitions."""
        self._client.get_broker_version(timeout_ms=CONNECT_MS)
        self._cluster.set_topics([self._topic])
        self.patiently(self.partitions)

    def partitions(self) -> int:
        """The number of partitions."""
        found = self._cluster.partitions_for_topic(self._topic)
        if not found:
            raise kafka.UnknownTopicOrPartitionError(self._topic)
        return len(found)

    def leader(self, partition: int) -> int | None:
        """The leader of a partition; None while there is none."""
        node = self._cluster.leader_for_partition(TopicPartition(self._topic, partition))
        return None if node == -1 else node

    def send(self, request: Any, node: int | None = None) -> Future:
        """Send a request to this broker, or to any."""
        node = self._client.least_loaded_node() if node is None else node
        if node is None:
            return Future().failure(kafka.NodeNotReadyError("no broker"))
        return self._client.send(node, request)

    def rest(self, limit_s: float) -> None:
        """Wait while a broker throttles this client.

        Raises:
            ThrottlingQuotaExceededError: It does so for longer than ``limit_s``.
        """
        deadline = time.monotonic() + limit_s
        while left_ms := self._throttled_ms():
            rest_ms = (deadline - time.monotonic()) * 1000
            if rest_ms <= 0:
                raise kafka.ThrottlingQuotaExceededError(f"for another {left_ms / 1000:.0f} s")
            self._wait(Future(), math.ceil(min(left_ms, rest_ms, METADATA_MS)))

    def _throttled_ms(self) -> float:
        nodes = [broker.node_id for broker in self._cluster.brokers()]
        return max(map(self._client.throttle_delay, nodes), default=0)

    def answer(self, future: Future) -> Any:
        """Wait for the answer to a request."""
        # A request without an answer fails by itself after its timeout.
        self._wait(future, ANSWER_MS + METADATA_MS)
        if not future.is_done:
            raise kafka.KafkaTimeoutError("no answer")
        if future.exception is not None:
            raise future.exception
        return future.value

    def patiently(self, step: Callable[[], _T]) -> _T:
        """Repeat a step while its errors are retriable, for up to ``DELIVERY_S``."""
        deadline = time.monotonic() + DELIVERY_S
        for failures in itertools.count():
            try:
                return step()
            except kafka.RetriableError as error:
                if time.monotonic() > deadline:
                    raise
                self._recover(error, failures)
        raise AssertionError  # The count never ends.

    def close(self) -> None:
        """Close the connections; pending requests are lost."""
        self._client.close()

    def _recover(self, error: kafka.RetriableError, failures: int) -> None:
        """Prepare a retry; the first needs no pause, such as after a closed idle connection."""
        if isinstance(error, kafka.InvalidMetadataError):
            self._wait(self._cluster.request_update(), METADATA_MS)
        if failures:
            self._wait(Future(), RETRY_MS)

    def _wait(self, future: Future, timeout_ms: int) -> None:
        if not future.is_done:
            self._client.poll(timeout_ms=timeout_ms, future=future)
