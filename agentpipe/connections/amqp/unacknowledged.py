"""Unacknowledged: deliveries of a channel that are not yet acknowledged. No I/O."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Unacknowledged:
    """Delivery tags in order, each with the name of its queue.

    The server numbers the deliveries of each queue from 0, and looks for an acknowledged one in the
    queue that has the name now. So nothing may be said of the deliveries of a deleted queue: it
    would be taken for others, which are removed before they ran, or keep their places in the
    prefetch (seen with RabbitMQ 3.10). Their tags stay here, so that no ack includes them.
    """

    def __init__(self) -> None:
        self._tags: dict[int, str] = {}
        self._orphans: set[int] = set()

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tag: int, queue: str) -> None:
        """Add a delivery."""
        self._tags[tag] = queue

    def orphan(self, queue: str) -> None:
        """Note that this queue was deleted, and its deliveries with it."""
        self._orphans.update(tag for tag, its in self._tags.items() if its == queue)

    def requeued(self, tag: int) -> bool:
        """Remove a delivery that is requeued; False if its queue is gone."""
        if tag in self._orphans:
            return False
        self._tags.pop(tag, None)
        return True

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
        done = {*tags} - self._orphans
        oldest = list(takewhile(done.__contains__, self._tags))
        for tag in done:
            self._tags.pop(tag, None)
        if len(oldest) <= 1:
            return [(tag, False) for tag in sorted(done)]
        done.difference_update(oldest)
        return [(oldest[-1], True), *((tag, False) for tag in sorted(done))]
