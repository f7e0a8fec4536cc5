"""KafkaReader: reads a topic, alone or in a consumer group.

A group expects its members to call in continuously. The caller's thread does all the work while it
polls. While the caller is busy elsewhere, a membership thread takes part in the group in its place.
A third thread commits what was used.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka
from kafka.coordinator.base import MemberState

from agentpipe.errors import Unreachable
from agentpipe.sinks.base import Record
from agentpipe.sinks.kafka.assignment import Assignment
from agentpipe.sinks.kafka.assignor import PinningAssignor
from agentpipe.sinks.kafka.batches import Undecodable, skip_undecodable
from agentpipe.sinks.kafka.commits import Commits
from agentpipe.sinks.kafka.errors import unreachable
from agentpipe.sinks.kafka.keys import task_id_of
from agentpipe.sinks.kafka.lent import Lent
from agentpipe.sinks.kafka.recalled import Recalled
from agentpipe.sinks.kafka.starts import Starts
from agentpipe.sinks.kafka.topic import ANSWER_MS, CONNECT_MS

if TYPE_CHECKING:
    from agentpipe.sinks.base import Start
    from agentpipe.sinks.kafka.address import KafkaAddress

FETCH_BYTES = 8 * 1024 * 1024
PARTITION_BYTES = 1024 * 1024
STEP_MS = 100
# Number of records to decode at once; the group can still reassign their partitions.
AHEAD = 200
# Added partitions are noticed within this time.
METADATA_MS = 5_000
# The heartbeat reply announces a rebalance, which takes two rounds.
HEARTBEAT_MS = 300
# Limit for a commit that waits for a rebalance.
REBALANCE_S = 60.0
# Without a poll for this long, the caller counts as busy.
BUSY_S = 1.0
# Time to wait for records that are known to exist.
ARRIVAL_S = 30.0


class KafkaReader:
    """Reads all partitions, or those assigned by the group."""

    def __init__(self, address: KafkaAddress, group: str | None, start: Start) -> None:
        self._address, self._group = address, group
        self._lock = threading.RLock()
        self._lent, self._recalled = Lent(), Recalled()
        self._commits = Commits(self._send)
        self._assignment = Assignment(
            address.topic, self._lent, self._commits, claim_s=address.session_s
        )
        self._member_id = ""
        self._ahead: deque[Record] = deque()
        # By partition: offsets below were used before it was assigned here. The entry is removed
        # once they are passed: a recreated topic starts at 0 again.
        self._floors: dict[TopicPartition, int] = {}
        self._polled_at = time.monotonic()
        self._closed = threading.Event()
        with unreachable(address.shown):
            self._consumer = _consumer(address, group, self._assignment)
            skip_undecodable(self._consumer)
            self._starts = Starts(self._consumer, address.topic, start)
            try:
                self._begin()
            except BaseException:
                self._commits.close()
                self._consumer.close(autocommit=False, timeout_ms=0)
                raise
        if group is not None:
            threading.Thread(
                target=self._keep_membership, name="agentpipe-kafka", daemon=True
            ).start()

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        self._refuse_if_closed()
        deadline = time.monotonic() + timeout_s
        self._polled_at = time.monotonic()
        with self._lock, unreachable(self._address.shown):
            while True:
                self._keep_up()
                left_ms = max(0, int((deadline - time.monotonic()) * 1000))
                if not self._ahead:
                    self._fetch(min(STEP_MS, left_ms))
                if records := self._hand_out(limit):
                    return records
                # An empty poll can mean that records have not arrived yet.
                if not left_ms and (self._is_at_end() or time.monotonic() > deadline + ARRIVAL_S):
                    return []

    def take(self, record: Record) -> bool:
        """Begin to use a record; False if a rebalance has moved its partition."""
        if self._group is None:
            return True
        with self._lock:
            return self._lent.take(record)

    def commit(self, record: Record) -> None:
        if self._group is None:
            return
        self._refuse_if_closed()
        with self._lock:
            offsets = self._lent.use(record)
        if offsets:  # Otherwise committed, or another reader's.
            with unreachable(self._address.shown):
                self._commits.add(offsets)

    def recall(self) -> list[str]:
        return self._recalled.take_new()

    def submissions(self, task_id: str) -> set[str | None]:
        """See ``KnowsSubmissions``."""
        return self._recalled.submissions(task_id)

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._commits.close()
        self._closed.set()
        with self._lock, suppress(kafka.KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=2_000)

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise Unreachable(f"{self._address.shown}: this reader is closed")

    def _begin(self) -> None:
        if self._group is None:
            self._read(self._starts.first(self._starts.partitions()))
            return
        # A group's leader assigns the partitions that it knows: load them first.
        self._starts.partitions()
        self._assignment.generation = lambda: int(self._consumer.group_metadata().generation_id)
        self._consumer.subscribe([self._address.topic], listener=self._assignment)
        self._join()

    def _keep_up(self) -> None:
        """Take part in the group; without one, add new partitions of the topic."""
        if self._group is not None:
            self._join()
            return
        read = self._consumer.assignment()
        if added := [tp for tp in self._starts.partitions() if tp not in read]:
            self._read(self._starts.beginning(added))

    def _read(self, offsets: dict[TopicPartition, int]) -> None:
        """Add partitions to read, without a group."""
        self._consumer.assign([*self._consumer.assignment(), *offsets])
        for tp, offset in offsets.items():
            self._consumer.seek(tp, offset)

    def _fetch(self, timeout_ms: int) -> None:
        """Fetch records ahead; those below a floor are only for ``recall``."""
        found = self._consumer.poll(timeout_ms, max_records=AHEAD)
        # Records of a new partition arrive again, from its start position.
        for tp in self._start_new():
            found.pop(tp, None)
        for tp, messages in found.items():
            for message in messages:
                self._receive(tp, message)

    def _receive(self, tp: TopicPartition, message: Any) -> None:
        position = (tp.partition, message.offset)
        value = message.value or b""
        fault = value if isinstance(value, Undecodable) else ""
        task_id = task_id_of(message.key, message.headers)
        record = Record(task_id, b"" if fault else value, position, fault)
        if message.offset < self._floors.get(tp, 0):
            self._recalled.add(record)
        else:
            self._floors.pop(tp, None)
            self._ahead.append(record)

    def _hand_out(self, limit: int) -> list[Record]:
        """Return records whose partitions are still assigned here."""
        records: list[Record] = []
        while self._ahead and len(records) < limit:
            record = self._ahead.popleft()
            if self._group is None:
                records.append(record)
            elif TopicPartition(self._address.topic, record.position[0]) in self._assignment.held:
                self._lent.add(record)
                records.append(record)
        return records

    def _start_new(self) -> list[TopicPartition]:
        """Seek in the partitions that the group has just assigned."""
        self._notice_new_member()
        new = self._assignment.take_new()
        if not new:
            return []
        numbers = {tp.partition for tp in new}
        self._ahead = deque(it for it in self._ahead if it.position[0] not in numbers)
        committed = self._starts.committed(new)
        first = self._starts.unread([tp for tp in new if tp not in committed])
        self._commit_first(first)  # A new group starts here, even if this reader dies.
        for tp, offset in committed.items():
            self._floors[tp] = max(offset, self._used_here(tp.partition))
            self._consumer.seek(tp, max(0, offset - self._recall_each()))
        for tp, offset in first.items():
            self._floors[tp] = offset
            self._consumer.seek(tp, offset)
        return new

    def _notice_new_member(self) -> None:
        """Detect that this reader was removed from the group and rejoined without partitions.

        The client does not report the removal if it learns of it while it joins.
        """
        member_id = self._consumer.group_metadata().member_id if self._group else ""
        if member_id != self._member_id:
            if self._member_id:
                self._assignment.lose()
            self._member_id = member_id

    def _used_here(self, partition: int) -> int:
        """The offset after the records in use here, for a partition that left and came back."""
        return max(self._lent.behind(partition), self._commits.behind(partition))

    def _recall_each(self) -> int:
        return self._address.recall // max(1, len(self._assignment.held))

    def _is_at_end(self) -> bool:
        held = list(self._consumer.assignment())
        ends = self._consumer.end_offsets(held, timeout_ms=ANSWER_MS) if held else {}
        at_end = all(self._consumer.position(tp) >= ends[tp] for tp in held)
        if at_end:
            self._floors.clear()
        return at_end

    def _send(self, offsets: dict[int, int]) -> None:
        """Commit, for ``Commits``; only as the same member that used the records."""
        if self._consumer.group_metadata().member_id != self._member_id:
            raise kafka.CommitFailedError
        commits = {
            TopicPartition(self._address.topic, number): self._starts.commit_at(offset)
            for number, offset in offsets.items()
        }
        try:
            self._consumer.commit(commits, timeout_ms=ANSWER_MS)
        except kafka.CommitFailedError as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, kafka.RebalanceInProgressError):
                raise cause from error  # The partitions are not lost by that.
            raise

    def _commit_first(self, first: dict[TopicPartition, int]) -> None:
        """Commit for partitions still assigned here; waits for a rebalance in progress."""
        deadline = time.monotonic() + REBALANCE_S
        while first:
            try:
                self._send({tp.partition: offset for tp, offset in first.items()})
            except kafka.RebalanceInProgressError:
                gone = self._join()
                held = self._assignment.held.difference(gone)
                first = {tp: offset for tp, offset in first.items() if tp in held}
            except kafka.CommitFailedError:
                return  # Reassigned to other readers, which begin there.
            else:
                return
            if time.monotonic() > deadline:
                raise kafka.KafkaTimeoutError(f"the group's rebalance took over {REBALANCE_S:g} s")

    def _join(self) -> list[TopicPartition]:
        """Complete a rebalance in progress; returns the newly assigned partitions.

        A poll would also do it, but one that ends early can leave an unfinished join behind: the
        client then never resumes it, and every commit fails.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - a poll can leave an unfinished join
        is_stable = self._consumer.group_metadata().state is MemberState.STABLE
        if self._assignment.end_claims() or not is_stable:
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
                if self._closed.is_set() or time.monotonic() - self._polled_at < BUSY_S:
                    continue
                with suppress(kafka.KafkaError, OSError):
                    self._join()


def _consumer(address: KafkaAddress, group: str | None, assignment: Assignment) -> KafkaConsumer:
    session_ms = int(address.session_s * 1000)
    return KafkaConsumer(
        **address.client,
        group_id=group,
        enable_auto_commit=False,
        # For positions that no longer exist: the topic was recreated, or the records expired.
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        partition_assignment_strategy=(PinningAssignor(assignment),),
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=HEARTBEAT_MS,
        max_poll_interval_ms=60_000,  # The membership thread calls each second.
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_BYTES,
        bootstrap_timeout_ms=CONNECT_MS,
        request_timeout_ms=max(ANSWER_MS, session_ms + 5_000),
        reconnect_backoff_max_ms=1_000,
        metadata_max_age_ms=METADATA_MS,
        metrics_enabled=False,
    )
