"""PinningAssignor: distributes partitions evenly, and avoids moving those with a record in use.

It is Kafka's cooperative-sticky assignor and speaks its protocol: members of other programs can
join the group, and lead it. Our members add their partitions in use to the user data, after the
generation that Java's members expect there.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import orjson
from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyAssignmentExecutor
from kafka.protocol.consumer.metadata import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.sinks.kafka.assignment import Assignment

_GENERATION = struct.Struct(">i")
Partitions = set[TopicPartition]


class PinningAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # the client has no types
    """The assignor of one member; the leader's computes the shares of all."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__()
        self._assignment = assignment

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolSubscription:
        """The data that this member sends to the leader."""
        owned = ConsumerProtocolSubscription.TopicPartition
        pinned = sorted(map(list, self._assignment.pinned()))
        return ConsumerProtocolSubscription(
            version=self.version,
            topics=sorted(topics),
            user_data=_GENERATION.pack(self._assignment.generation()) + orjson.dumps(pinned),
            owned_partitions=[
                owned(topic=topic, partitions=numbers)
                for topic, numbers in _by_topic(self._assignment.owned())
            ],
        )

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        """Compute each member's partitions; a moving one is first released by its owner."""
        parsed = {each.member_id: self.parse_member_metadata(each.metadata) for each in members}
        executor = StickyAssignmentExecutor(cluster, parsed)
        executor.perform_initial_assignment()
        executor.balance()
        shares = {member: _flat(executor.get_final_assignment(member)) for member in parsed}
        keep_pinned(shares, {each.member_id: pinned_in(each.metadata) for each in members})
        owners = {tp: member for member, said in parsed.items() for tp in said.partitions}
        return {
            member: ConsumerProtocolAssignment(
                self.version,
                _by_topic(tp for tp in share if owners.get(tp, member) == member),
                b"",
            )
            for member, share in shares.items()
        }


def keep_pinned(shares: dict[str, Partitions], pinned: dict[str, Partitions]) -> None:
    """Return each pinned partition to its member, in exchange for one of its others."""
    for member, pins in pinned.items():
        for pin in sorted(pins - shares[member]):
            taker = next((name for name, share in shares.items() if pin in share), None)
            spare = next(
                (tp for tp in sorted(shares[member] - pins) if tp.topic == pin.topic), None
            )
            if taker is not None and spare is not None:
                shares[taker] ^= {pin, spare}
                shares[member] ^= {pin, spare}


def pinned_in(metadata: Any) -> Partitions:
    """The partitions that a member reports as in use; empty for other programs' members."""
    try:
        reported = orjson.loads(bytes(metadata.user_data or b"")[_GENERATION.size :])
        return {TopicPartition(str(topic), int(number)) for topic, number in reported}
    except (ValueError, TypeError):
        return set()


def _flat(share: Iterable[tuple[str, Iterable[int]]]) -> Partitions:
    return {TopicPartition(topic, number) for topic, numbers in share for number in numbers}


def _by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = defaultdict(list)
    for tp in sorted(partitions):
        found[tp.topic].append(tp.partition)
    return sorted(found.items())
