"""KafkaReader: reads a topic, alone or in a consumer group.

The client library allows one thread at a time, and a group expects its members to call in all the
time. The caller's thread does all the work while it polls and commits; while it is busy elsewhere,
a membership thread takes part in the group in its place.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState

from agentpipe.errors import Unreachable
from agentpipe.sinks.base import Record
from agentpipe.sinks.kafka.errors import unreachable
from agentpipe.sinks.kafka.topic import ANSWER_MS, CONNECT_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.sinks.base import Start
    from agentpipe.sinks.kafka.address import KafkaAddress

FETCH_BYTES = 8 * 1024 * 1024
PARTITION_BYTES = 1024 * 1024
STEP_MS = 100
# The reply announces a rebalance, which takes two rounds.
HEARTBEAT_MS = 300
# Limit for a commit that waits for a rebalance.
REBALANCE_S = 60.0
# After so long without a call the caller is busy.
BUSY_S = 1.0
# Time to wait for records that are known to exist.
ARRIVAL_S = 30.0


class KafkaReader:
    """Reads all partitions, or those assigned by the group."""

    def __init__(self, address: KafkaAddress, group: str | None, start: Start) -> None:
        self._address, self._group, self._start = address, group, start
        self._lock = threading.RLock()
        self._assignment = _Assignment()
        self._polled: deque[tuple[TopicPartition, int]] = deque()
        self._recalled: list[str] = []
        # By partition: offsets below were used before it was assigned here. The entry goes once
        # they are passed: a topic that is created anew starts at 0 again.
        self._floors: dict[TopicPartition, int] = {}
        self._touched_at = time.monotonic()
        self._closed = threading.Event()
        with unreachable(address.shown):
            self._consumer = _consumer(address, group)
            try:
                self._begin()
            except BaseException:
                self._consumer.close(autocommit=False, timeout_ms=0)
                raise
        if group is not None:
            threading.Thread(
                target=self._keep_membership, name="agentpipe-kafka", daemon=True
            ).start()

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        with self._locked(), unreachable(self._address.shown):
            while True:
                if self._group is not None:
                    self._join()
                left_ms = max(0, int((deadline - time.monotonic()) * 1000))
                found = self._consumer.poll(min(STEP_MS, left_ms), max_records=limit)
                # Records of a new partition come again, from its start position.
                for tp in self._start_new():
                    found.pop(tp, None)
                if records := self._split(found):
                    return records
                # An empty poll may only mean that records have not arrived yet.
                if not left_ms and (self._is_at_end() or time.monotonic() > deadline + ARRIVAL_S):
                    self._floors.clear()
                    return []

    def commit(self, record: Record) -> None:
        if self._group is None:
            return
        partition, offset = record.position
        used = (TopicPartition(self._address.topic, partition), offset)
        with self._locked(), unreachable(self._address.shown):
            self._start_new()
            if used not in self._polled:
                return  # Already committed, or another reader's by now.
            offsets: dict[TopicPartition, int] = {}
            while self._polled:
                tp, at = self._polled.popleft()
                offsets[tp] = max(offsets.get(tp, 0), at + 1)
                if (tp, at) == used:
                    break
            self._commit({tp: at for tp, at in offsets.items() if tp in self._assignment.held})

    def recall(self) -> list[str]:
        recalled, self._recalled = self._recalled, []
        return recalled

    def close(self) -> None:
        self._closed.set()
        with self._lock, suppress(kafka.KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=2_000)

    def _locked(self) -> threading.RLock:
        """The lock on the client; the membership thread stays away for a while."""
        if self._closed.is_set():
            raise Unreachable(f"{self._address.shown}: this reader is closed")
        self._touched_at = time.monotonic()
        return self._lock

    def _begin(self) -> None:
        if self._group is None:
            self._read_all()
            return
        # A group's leader assigns the partitions that it knows: load them first.
        self._consumer.partitions_for_topic(self._address.topic)
        self._consumer.subscribe([self._address.topic], listener=self._assignment)
        self._join()

    def _read_all(self) -> None:
        numbers = self._consumer.partitions_for_topic(self._address.topic) or set()
        held = [TopicPartition(self._address.topic, number) for number in sorted(numbers)]
        self._consumer.assign(held)
        for tp, offset in self._first_offsets(held).items():
            self._consumer.seek(tp, offset)

    def _first_offsets(self, held: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where a reader without commits starts."""
        if self._start == "beginning":
            return dict(self._consumer.beginning_offsets(held))
        ends: dict[TopicPartition, int] = self._consumer.end_offsets(held)
        if self._start == "now":
            return ends
        moment_ms = int(self._start * 1000)
        found = self._consumer.offsets_for_times(dict.fromkeys(held, moment_ms))
        return {tp: found[tp].offset if found.get(tp) else ends[tp] for tp in held}

    def _start_new(self) -> list[TopicPartition]:
        """Seek in the partitions that the group has just assigned."""
        new = self._assignment.take_new()
        if not new:
            return []
        committed = {tp: self._consumer.committed(tp) for tp in new}
        unread = [tp for tp, offset in committed.items() if offset is None]
        first = self._first_offsets(unread) if unread else {}
        self._commit(first)  # A new group has started here, even if this reader dies.
        self._floors.update({**committed, **first})
        for tp in committed.keys() - first.keys():
            self._consumer.seek(tp, max(0, committed[tp] - self._recall_each()))
        for tp, offset in first.items():
            self._consumer.seek(tp, offset)
        self._polled = deque(entry for entry in self._polled if entry[0] not in new)
        return new

    def _recall_each(self) -> int:
        return self._address.recall // max(1, len(self._assignment.held))

    def _split(self, found: dict[TopicPartition, list[Any]]) -> list[Record]:
        """New records; of earlier ones only the ids, for ``recall``."""
        records = []
        for tp, messages in found.items():
            floor = self._floors.get(tp, 0)
            for message in messages:
                if message.offset < floor:
                    self._recalled.append(_id_of(message))
                    continue
                self._floors.pop(tp, None)
                records.append(
                    Record(_id_of(message), message.value or b"", (tp.partition, message.offset))
                )
                if self._group is not None:
                    self._polled.append((tp, message.offset))
        return records

    def _is_at_end(self) -> bool:
        held = list(self._consumer.assignment())
        ends = self._consumer.end_offsets(held, timeout_ms=ANSWER_MS) if held else {}
        return all(self._consumer.position(tp) >= ends[tp] for tp in held)

    def _commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Commit for partitions still assigned here, after a rebalance if one is going on."""
        deadline = time.monotonic() + REBALANCE_S
        while offsets:
            try:
                self._consumer.commit(
                    {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()},
                    timeout_ms=ANSWER_MS,
                )
            except kafka.RebalanceInProgressError:
                gone = self._join()
                held = self._assignment.held.difference(gone)
                offsets = {tp: offset for tp, offset in offsets.items() if tp in held}
            except kafka.CommitFailedError:
                return  # Assigned to other readers by now, which read the record again.
            else:
                return
            if time.monotonic() > deadline:
                raise kafka.KafkaTimeoutError(f"the group's rebalance took over {REBALANCE_S:g} s")

    def _join(self) -> list[TopicPartition]:
        """Complete a rebalance if one is going on; the newly assigned partitions.

        A poll would do, but one that ends early can leave an unfinished join behind: the client
        then never resumes it, and every commit fails.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - see above
        if self._consumer.group_metadata().state is not MemberState.STABLE:
            coordinator.request_rejoin()
        # A rebalance waits for a dead member until its session expires.
        limit_s = self._address.session_s + ANSWER_MS / 1000
        if not coordinator.poll(timeout_ms=limit_s * 1000):
            raise kafka.KafkaTimeoutError(f"the group's rebalance took over {limit_s:g} s")
        return self._start_new()

    def _keep_membership(self) -> None:
        """Stay in the group while the caller is busy."""
        while not self._closed.wait(BUSY_S):
            with self._lock:
                if self._closed.is_set() or time.monotonic() - self._touched_at < BUSY_S:
                    continue
                with suppress(kafka.KafkaError, OSError):
                    self._join()


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """The partitions that the group has assigned to this reader."""

    def __init__(self) -> None:
        self.held: set[TopicPartition] = set()
        self._new: list[TopicPartition] = []

    def take_new(self) -> list[TopicPartition]:
        """Those assigned since the last call."""
        new, self._new = self._new, []
        return [tp for tp in new if tp in self.held]

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called by the client with added partitions."""
        self._new += [tp for tp in assigned if tp not in self.held]
        self.held.update(assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Called by the client with removed partitions."""
        self.held.difference_update(revoked)


def _consumer(address: KafkaAddress, group: str | None) -> KafkaConsumer:
    session_ms = int(address.session_s * 1000)
    return KafkaConsumer(
        **address.client,
        group_id=group,
        enable_auto_commit=False,
        # For positions that no longer exist: the topic was created anew, or expired them.
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        partition_assignment_strategy=(CooperativeStickyAssignor,),
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=HEARTBEAT_MS,
        max_poll_interval_ms=60_000,  # The membership thread calls each second.
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_BYTES,
        bootstrap_timeout_ms=CONNECT_MS,
        request_timeout_ms=max(ANSWER_MS, session_ms + 5_000),
        reconnect_backoff_max_ms=1_000,
        metrics_enabled=False,
    )


def _id_of(message: Any) -> str:
    return (message.key or b"").decode(errors="backslashreplace")
