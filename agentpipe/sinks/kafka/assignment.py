"""Assignment: the partitions that a group has given to a reader, and those it cannot give up yet.

A partition that has to go while its record is in use, or its commit under way, stays claimed: no
other reader gets it before that is over, so none reads the record again.
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
    """Called by the client within a rebalance; the reader guards the rest by its lock.

    Attributes:
        held: What is assigned here.
        generation: Tells the group's generation; negative when this reader is not a member.
    """

    def __init__(self, topic: str, lent: Lent, commits: Commits, claim_s: float) -> None:
        """A claim ends after ``claim_s``, even if its record is still in use."""
        self.held: set[TopicPartition] = set()
        self.generation: Callable[[], int] = lambda: -1
        self._topic, self._lent, self._commits = topic, lent, commits
        self._claim_s = claim_s
        self._claimed_at: dict[TopicPartition, float] = {}
        self._new: list[TopicPartition] = []

    def owned(self) -> set[TopicPartition]:
        """What no other reader may get now."""
        return {*self.held, *self._claimed_at} if self.generation() >= 0 else set()

    def pinned(self) -> set[TopicPartition]:
        """What should stay here: a record of it is in use."""
        return self.owned() & self._in_use()

    def take_new(self) -> list[TopicPartition]:
        """What was assigned since the last call."""
        new, self._new = self._new, []
        return [tp for tp in new if tp in self.held]

    def end_claims(self) -> bool:
        """Give up what is no longer in use, or was for too long; whether there was any."""
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
        """Others may have read on in all partitions: what is held is as if new."""
        self._claimed_at.clear()
        self._lent.clear()
        self._commits.drop(self._commits.partitions())
        self._new = list(self.held)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """See the client's class."""
        self._new += [tp for tp in assigned if tp not in self.held]
        self.held.update(assigned)
        for tp in assigned:
            self._claimed_at.pop(tp, None)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """See the client's class."""
        gone = set(revoked)
        self.held -= gone
        self._lent.drop({tp.partition for tp in gone}, also_in_use=False)
        self._claimed_at.update(dict.fromkeys(gone & self._in_use(), time.monotonic()))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """See the client's class."""
        self.held.difference_update(lost)
        self.lose()

    def _in_use(self) -> set[TopicPartition]:
        numbers = self._lent.partitions() | self._commits.partitions()
        return {TopicPartition(self._topic, number) for number in numbers}

    def _forget(self, partitions: set[TopicPartition]) -> None:
        numbers = {tp.partition for tp in partitions}
        self._lent.drop(numbers, also_in_use=True)
        self._commits.drop(numbers)
