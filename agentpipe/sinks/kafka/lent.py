"""Lent: the records that a reader has handed out and not committed."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentpipe.sinks.base import Record


class Lent:
    """Records in polling order; the caller guards it with a lock."""

    def __init__(self) -> None:
        # By (partition, offset): whether the caller has begun to use the record.
        self._entries: OrderedDict[tuple[int, int], bool] = OrderedDict()

    def add(self, record: Record) -> None:
        """Add a polled record."""
        self._entries[record.position] = False

    def take(self, record: Record) -> bool:
        """Mark a record as in use; False if it is no longer here."""
        if record.position not in self._entries:
            return False
        self._entries[record.position] = True
        return True

    def use(self, record: Record) -> dict[int, int]:
        """Remove a used record and all before it; returns the next offset by partition."""
        offsets: dict[int, int] = {}
        while record.position in self._entries:
            (partition, offset), _ = self._entries.popitem(last=False)
            offsets[partition] = max(offsets.get(partition, 0), offset + 1)
        return offsets

    def partitions(self) -> set[int]:
        """Partitions with a record in use."""
        return {partition for (partition, _), taken in self._entries.items() if taken}

    def behind(self, partition: int) -> int:
        """The offset after the partition's last record in use; 0 if there is none."""
        taken = (
            at for (number, at), taken in self._entries.items() if taken and number == partition
        )
        return max(taken, default=-1) + 1

    def drop(self, partitions: Collection[int], *, also_in_use: bool) -> None:
        """Forget the records of these partitions."""
        gone = [
            position
            for position, taken in self._entries.items()
            if position[0] in partitions and (also_in_use or not taken)
        ]
        for position in gone:
            del self._entries[position]

    def clear(self) -> None:
        """Forget all records."""
        self._entries.clear()
