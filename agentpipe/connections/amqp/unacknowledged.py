"""Unacknowledged: deliveries of a channel that are not yet acknowledged. No I/O."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Unacknowledged:
    """Delivery tags in order."""

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tag: int) -> None:
        """Add a delivery."""
        self._tags[tag] = None

    def discard(self, tag: int) -> None:
        """Remove a delivery that is requeued."""
        self._tags.pop(tag, None)

    def clear(self) -> None:
        """Remove all deliveries: they are requeued."""
        self._tags.clear()

    def up_to(self, tag: int) -> list[int]:
        """Remove and return the tags up to and including this one."""
        found = list(takewhile(tag.__ge__, self._tags))
        for each in found:
            del self._tags[each]
        return found

    def done(self, tags: Collection[int]) -> list[tuple[int, bool]]:
        """Remove these tags; returns the acks to send, as pairs.

        Each pair is a tag and whether the ack includes all earlier tags. One ack covers the oldest
        tags when all of them are done.
        """
        done = set(tags)
        oldest = list(takewhile(done.__contains__, self._tags))
        for tag in done:
            self._tags.pop(tag, None)
        if len(oldest) <= 1:
            return [(tag, False) for tag in sorted(done)]
        done.difference_update(oldest)
        return [(oldest[-1], True), *((tag, False) for tag in sorted(done))]
