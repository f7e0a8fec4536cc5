"""Starts: the offsets at which a reader of a topic begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from agentpipe.sinks.kafka.topic import ANSWER_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.sinks.base import Start


class Starts:
    """The start offsets of one reader.

    A partition added later is read from its first record, regardless of the start. To detect these,
    each commit stores how many partitions existed when its group began.
    """

    def __init__(self, consumer: KafkaConsumer, topic: str, start: Start) -> None:
        self._consumer, self._topic, self._start = consumer, topic, start
        self._at_first = 0

    def partitions(self) -> list[TopicPartition]:
        """The known partitions of the topic."""
        numbers = self._consumer.partitions_for_topic(self._topic) or ()
        return [TopicPartition(self._topic, number) for number in sorted(numbers)]

    def first(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets that ``start`` means, for a reader without commits."""
        if self._start == "beginning":
            return self.beginning(partitions)
        ends: dict[TopicPartition, int] = self._consumer.end_offsets(partitions)
        if self._start == "now":
            return ends
        moment_ms = int(self._start * 1000)
        found = self._consumer.offsets_for_times(dict.fromkeys(partitions, moment_ms))
        return {tp: found[tp].offset if found.get(tp) else ends[tp] for tp in partitions}

    def beginning(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets of the first records."""
        return dict(self._consumer.beginning_offsets(partitions)) if partitions else {}

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets that the group has committed."""
        found = self._commits(partitions)
        self._learn(found)
        return {tp: commit.offset for tp, commit in found.items()}

    def unread(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets at which a group begins in partitions without a commit."""
        self._learn(self._commits(self.partitions()))
        self._at_first = self._at_first or len(self.partitions())
        old = [tp for tp in partitions if tp.partition < self._at_first]
        added = [tp for tp in partitions if tp.partition >= self._at_first]
        return {**(self.first(old) if old else {}), **self.beginning(added)}

    def commit_at(self, offset: int) -> OffsetAndMetadata:
        """A commit, with the metadata that later readers need."""
        return OffsetAndMetadata(offset, str(self._at_first or ""), -1)

    def _commits(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        coordinator = self._consumer._coordinator  # noqa: SLF001 - ``committed`` asks one by one
        return dict(coordinator.fetch_committed_offsets(list(partitions), timeout_ms=ANSWER_MS))

    def _learn(self, commits: dict[TopicPartition, OffsetAndMetadata]) -> None:
        for tp, commit in commits.items():
            noted = commit.metadata or ""
            # Foreign commits carry no number: at least this partition existed.
            number = int(noted) if noted.isdecimal() else tp.partition + 1
            self._at_first = max(self._at_first, number)
