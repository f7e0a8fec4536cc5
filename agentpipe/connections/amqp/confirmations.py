"""Confirmations: which published messages the server has stored, and which it refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import asyncio

Fate = Literal["taken", "refused", "unroutable"]


class Batch:
    """Published messages that are awaited together, numbered from ``first``."""

    def __init__(self, first: int, number: int, done: asyncio.Future[Any]) -> None:
        self._first, self.done = first, done
        self._left = number
        self.fates: list[Fate] = ["taken"] * number

    def settle(self, number: int, *, taken: bool) -> None:
        """Record that the server has taken or refused a message."""
        if not taken:
            self.fates[number - self._first] = "refused"
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def returned(self, number: int) -> None:
        """Record that no queue accepts the message."""
        self.fates[number - self._first] = "unroutable"


class Confirmations:
    """The confirmations of one channel; both sides count messages from 1."""

    def __init__(self) -> None:
        self._published = 0
        # Ordered by message number.
        self._unconfirmed: dict[int, Batch] = {}

    @property
    def next_number(self) -> int:
        """The number of the first message in the next batch."""
        return self._published + 1

    def expect(self, number: int, done: asyncio.Future[Any]) -> Batch:
        """Register a batch of ``number`` messages that is about to be published."""
        numbers = range(self.next_number, self.next_number + number)
        batch = Batch(numbers.start, number, done)
        self._unconfirmed.update(dict.fromkeys(numbers, batch))
        self._published += number
        return batch

    def confirm(self, number: int, all_before: bool, taken: bool) -> None:  # noqa: FBT001 - set by Arrivals
        """Process a confirmation of one message, or of it and all earlier ones."""
        numbers = [number]
        if all_before:
            numbers = []
            for each in self._unconfirmed:
                if each > number:
                    break
                numbers.append(each)
        for each in numbers:
            self._unconfirmed.pop(each).settle(each, taken=taken)

    def returned(self, number: int) -> None:
        """Record that the server returned a message; its confirmation follows."""
        if number in self._unconfirmed:
            self._unconfirmed[number].returned(number)

    def clear(self) -> None:
        """Forget all messages: the channel has closed."""
        self._unconfirmed.clear()
