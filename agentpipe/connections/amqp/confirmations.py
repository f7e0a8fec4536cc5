"""Confirmations: which published messages the server has safe, and which it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import asyncio

Fate = Literal["taken", "refused", "unroutable"]


class Batch:
    """Published messages whose confirmations are awaited together, numbered from ``first``."""

    def __init__(self, first: int, number: int, done: asyncio.Future[Any]) -> None:
        self._first, self.done = first, done
        self._left = number
        self.fates: list[Fate] = ["taken"] * number

    def settle(self, number: int, *, taken: bool) -> None:
        """The server has it, or refuses it."""
        if not taken:
            self.fates[number - self._first] = "refused"
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def returned(self, number: int) -> None:
        """No queue takes it."""
        self.fates[number - self._first] = "unroutable"


class Confirmations:
    """Those of one channel, where the server counts messages from 1 as we do."""

    def __init__(self) -> None:
        self._published = 0
        # In the order of their numbers.
        self._unconfirmed: dict[int, Batch] = {}

    @property
    def next_number(self) -> int:
        """That of the first message of the next batch."""
        return self._published + 1

    def expect(self, number: int, done: asyncio.Future[Any]) -> Batch:
        """A batch of the next messages, which are published now."""
        numbers = range(self.next_number, self.next_number + number)
        batch = Batch(numbers.start, number, done)
        self._unconfirmed.update(dict.fromkeys(numbers, batch))
        self._published += number
        return batch

    def confirm(self, number: int, all_before: bool, taken: bool) -> None:  # noqa: FBT001 - see Arrivals
        """The server says what became of a message, and perhaps of those before it."""
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
        """The server sends it back; its confirmation follows."""
        if number in self._unconfirmed:
            self._unconfirmed[number].returned(number)

    def clear(self) -> None:
        """None will come any more."""
        self._unconfirmed.clear()
