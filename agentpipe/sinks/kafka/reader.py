"""KafkaReader: one reader's way through a topic, alone or in a consumer group.

The client library wants one thread at a time, and a group wants to hear of its members all
the time. The caller's thread does all the work while it polls and commits; while it is busy
elsewhere, a caretaker takes part in the group in its place.
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
# By its answer a reader hears that the group shares anew, which takes two rounds.
HEARTBEAT_MS = 300
# How long a commit may wait for the group to settle.
JOIN_S = 60.0
# A caller away for so long is busy.
BUSY_S = 1.0
# For so long a reader goes on looking for what it knows to be there.
ARRIVE_S = 30.0


class KafkaReader:
    """Reads a topic's partitions: all of them, or its share of the group's."""

    def __init__(self, address: KafkaAddress, group: str | None, start: Start) -> None:
        self._address, self._group, self._start = address, group, start
        self._lock = threading.RLock()
        self._assignment = _Assignment()
        self._polled: deque[tuple[TopicPartition, int]] = deque()
        self._recalled: list[str] = []
        # Of each partition, what lies below was used before this reader had it; once that has been
        # passed there is no entry any more: a topic that is made anew begins at 0 again.
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
            threading.Thread(target=self._care, name="agentpipe-kafka", daemon=True).start()

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        with self._attending(), unreachable(self._address.shown):
            while True:
                if self._group is not None:
                    self._attend()
                left_ms = max(0, int((deadline - time.monotonic()) * 1000))
                found = self._consumer.poll(min(STEP_MS, left_ms), max_records=limit)
                # What came of a partition that is new here comes again, from where it begins.
                for tp in self._take_in_new():
                    found.pop(tp, None)
                if records := self._sorted_out(found):
                    return records
                # An empty answer may only mean that it has not arrived yet.
                if not left_ms and (self._is_at_end() or time.monotonic() > deadline + ARRIVE_S):
                    self._floors.clear()
                    return []

    def commit(self, record: Record) -> None:
        if self._group is None:
            return
        partition, offset = record.position
        used = (TopicPartition(self._address.topic, partition), offset)
        with self._attending(), unreachable(self._address.shown):
            self._take_in_new()
            if used not in self._polled:
                return  # It was committed before, or is another reader's by now.
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

    def _attending(self) -> threading.RLock:
        """The client, for the caller; the caretaker keeps away for a while."""
        if self._closed.is_set():
            raise Unreachable(f"{self._address.shown}: this reader was closed")
        self._touched_at = time.monotonic()
        return self._lock

    def _begin(self) -> None:
        if self._group is None:
            self._read_all()
            return
        # Who leads the group shares out what it knows of; at first that would be nothing.
        self._consumer.partitions_for_topic(self._address.topic)
        self._consumer.subscribe([self._address.topic], listener=self._assignment)
        self._attend()

    def _read_all(self) -> None:
        numbers = self._consumer.partitions_for_topic(self._address.topic) or set()
        held = [TopicPartition(self._address.topic, number) for number in sorted(numbers)]
        self._consumer.assign(held)
        for tp, offset in self._first_offsets(held).items():
            self._consumer.seek(tp, offset)

    def _first_offsets(self, held: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where a reader without a past begins."""
        if self._start == "beginning":
            return dict(self._consumer.beginning_offsets(held))
        ends: dict[TopicPartition, int] = self._consumer.end_offsets(held)
        if self._start == "now":
            return ends
        moment_ms = int(self._start * 1000)
        found = self._consumer.offsets_for_times(dict.fromkeys(held, moment_ms))
        return {tp: found[tp].offset if found.get(tp) else ends[tp] for tp in held}

    def _take_in_new(self) -> list[TopicPartition]:
        """Begin with the partitions that the group has just given to this reader."""
        new = self._assignment.take_new()
        if not new:
            return []
        committed = {tp: self._consumer.committed(tp) for tp in new}
        unread = [tp for tp, offset in committed.items() if offset is None]
        first = self._first_offsets(unread) if unread else {}
        self._commit(first)  # A group that begins now has begun, whatever becomes of us.
        self._floors.update({**committed, **first})
        for tp in committed.keys() - first.keys():
            self._consumer.seek(tp, max(0, committed[tp] - self._recall_each()))
        for tp, offset in first.items():
            self._consumer.seek(tp, offset)
        self._polled = deque(entry for entry in self._polled if entry[0] not in new)
        return new

    def _recall_each(self) -> int:
        return self._address.recall // max(1, len(self._assignment.held))

    def _sorted_out(self, found: dict[TopicPartition, list[Any]]) -> list[Record]:
        """What is new; of what lies before, just the ids."""
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
        """Commit for the partitions that are still this reader's, once the group is settled."""
        deadline = time.monotonic() + JOIN_S
        while offsets:
            try:
                self._consumer.commit(
                    {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()},
                    timeout_ms=ANSWER_MS,
                )
            except kafka.RebalanceInProgressError:
                gone = self._attend()
                held = self._assignment.held.difference(gone)
                offsets = {tp: offset for tp, offset in offsets.items() if tp in held}
            except kafka.CommitFailedError:
                return  # The group has given them to others, who read the record again.
            else:
                return
            if time.monotonic() > deadline:
                raise kafka.KafkaTimeoutError(f"the group was not settled within {JOIN_S:g} s")

    def _attend(self) -> list[TopicPartition]:
        """Take part in the group, and see it settled; the partitions that are new here.

        A poll would do, but one that ends early can leave a join behind that nobody takes up
        again: the client then sees no need to, and every commit fails.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - see above
        if self._consumer.group_metadata().state is not MemberState.STABLE:
            coordinator.request_rejoin()
        # A member that died is waited for until its session has run out.
        patience_s = self._address.session_s + ANSWER_MS / 1000
        if not coordinator.poll(timeout_ms=patience_s * 1000):
            raise kafka.KafkaTimeoutError(f"the group was not settled within {patience_s:g} s")
        return self._take_in_new()

    def _care(self) -> None:
        """Take part in the group while the caller is busy."""
        while not self._closed.wait(BUSY_S):
            with self._lock:
                if self._closed.is_set() or time.monotonic() - self._touched_at < BUSY_S:
                    continue
                with suppress(kafka.KafkaError, OSError):
                    self._attend()


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Which partitions are this reader's, as its group last said, in the client's own thread."""

    def __init__(self) -> None:
        self.held: set[TopicPartition] = set()
        self._new: list[TopicPartition] = []

    def take_new(self) -> list[TopicPartition]:
        """Those given since the last call."""
        new, self._new = self._new, []
        return [tp for tp in new if tp in self.held]

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """The group gives more."""
        self._new += [tp for tp in assigned if tp not in self.held]
        self.held.update(assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """The group takes back, or has taken."""
        self.held.difference_update(revoked)


def _consumer(address: KafkaAddress, group: str | None) -> KafkaConsumer:
    session_ms = int(address.session_s * 1000)
    return KafkaConsumer(
        **address.client,
        group_id=group,
        enable_auto_commit=False,
        # Of a position that is gone, because the topic was made anew or has forgotten it.
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        partition_assignment_strategy=(CooperativeStickyAssignor,),
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=HEARTBEAT_MS,
        max_poll_interval_ms=60_000,  # For the caretaker, who comes each second.
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_BYTES,
        bootstrap_timeout_ms=CONNECT_MS,
        request_timeout_ms=max(ANSWER_MS, session_ms + 5_000),
        reconnect_backoff_max_ms=1_000,
        metrics_enabled=False,
    )


def _id_of(message: Any) -> str:
    return (message.key or b"").decode(errors="backslashreplace")
