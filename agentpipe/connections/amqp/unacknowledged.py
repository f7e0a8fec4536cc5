"""Unacknowledged: what was delivered on a channel and is not done with. No I/O."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Unacknowledged:
    """Tags of deliveries, in their order."""

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tag: int) -> None:
        """This was delivered."""
        self._tags[tag] = None

    def discard(self, tag: int) -> None:
        """It goes back."""
        self._tags.pop(tag, None)

    def clear(self) -> None:
        """All go back."""
        self._tags.clear()

    def up_to(self, tag: int) -> list[int]:
        """Those up to this one, which are there no longer."""
        found = list(takewhile(tag.__ge__, self._tags))
        for each in found:
            del self._tags[each]
        return found

    def done(self, tags: Collection[int]) -> list[tuple[int, bool]]:
        """What to say when these are done: each tag, and whether it stands for all before it.

        One word is enough for those that nothing older is left beside.
        """
        done = set(tags)
        oldest = list(takewhile(done.__contains__, self._tags))
        for tag in done:
            self._tags.pop(tag, None)
        if len(oldest) <= 1:
            return [(tag, False) for tag in sorted(done)]
        done.difference_update(oldest)
        return [(oldest[-1], True), *((tag, False) for tag in sorted(done))]
