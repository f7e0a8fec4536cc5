"""Assignment: the partitions assigned to a reader, and those that it cannot give up yet.

If a partition is revoked while its record is in use or its commit is pending, the reader keeps a
claim on it: no other reader gets the partition before that is over, so none reads the record again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kafka import ConsumerRebalanceListener, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.sinks.kafka.commits import Commits
    from agentpipe.sinks.kafka.lent import Lent


class Assignment(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """Called by the client during a rebalance; otherwise guarded by the reader's lock.

    Attributes:
        held: The partitions assigned to this reader.
        generation: Returns the group's generation; negative when this reader is not a member.
    """

    def __init__(self, topic: str, lent: Lent, commits: Commits, claim_s: float) -> None:
        """Create it; a claim ends after ``claim_s``, even if its record is still in use."""
        self.held: set[TopicPartition] = set()
        self.generation: Callable[[], int] = lambda: -1
        self._topic, self._lent, self._commits = topic, lent, commits
        self._claim_s = claim_s
        self._claimed_at: dict[TopicPartition, float] = {}
        self._new: list[TopicPartition] = []

    def owned(self) -> set[TopicPartition]:
        """The partitions that no other reader may get now."""
        return {*self.held, *self._claimed_at} if self.generation() >= 0 else set()

    def pinned(self) -> set[TopicPartition]:
        """The partitions that should stay here, because a record of theirs is in use."""
        return self.owned() & self._in_use()

    def take_new(self) -> list[TopicPartition]:
        """The partitions assigned since the last call."""
        new, self._new = self._new, []
        return [tp for tp in new if tp in self.held]

    def end_claims(self) -> bool:
        """End claims that are unused or expired; returns whether there were any."""
        in_use, now = self._in_use(), time.monotonic()
        ended = {
            tp
            for tp, since in self._claimed_at.items()
            if tp not in in_use or now - since > self._claim_s
        }
        self._forget(ended)
        for tp in ended:
            del self._claimed_at[tp]
        return bool(ended)

    def lose(self) -> None:
        """Treat all held partitions as new: other readers may have read on in them."""
        self._claimed_at.clear()
        self._lent.clear()
        self._commits.drop(self._commits.partitions())
        self._new = list(self.held)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Add partitions; called by the client."""
        self._new += [tp for tp in assigned if tp not in self.held]
        self.held.update(assigned)
        for tp in assigned:
            self._claimed_at.pop(tp, None)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Remove partitions, claiming those in use; called by the client."""
        gone = set(revoked)
        self.held -= gone
        self._lent.drop({tp.partition for tp in gone}, also_in_use=False)
        self._claimed_at.update(dict.fromkeys(gone & self._in_use(), time.monotonic()))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Remove lost partitions; called by the client."""
        self.held.difference_update(lost)
        self.lose()

    def _in_use(self) -> set[TopicPartition]:
        numbers = self._lent.partitions() | self._commits.partitions()
        return {TopicPartition(self._topic, number) for number in numbers}

    def _forget(self, partitions: set[TopicPartition]) -> None:
        numbers = {tp.partition for tp in partitions}
        self._lent.drop(numbers, also_in_use=True)
        self._commits.drop(numbers)
