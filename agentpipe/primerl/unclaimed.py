"""Unclaimed: answers to requests whose connection is gone, for clients that connect again."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A client connects again within moments, and a trainer that ends never asks for them.
KEPT_S = 600.0
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is sent for one task.

    Attributes:
        messages: Each by its parts.
    """

    task_id: str
    messages: Sequence[Sequence[bytes]]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(part) for message in self.messages for part in message)


class Unclaimed:
    """The newest answers, each for some time."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, Answer]] = deque()
        self._bytes = 0

    def add(self, answer: Answer) -> None:
        """Keep it."""
        self._answers.append((time.monotonic(), answer))
        self._bytes += answer.size
        self._forget()

    def __iter__(self) -> Iterator[Answer]:
        """The oldest first."""
        self._forget()
        return (answer for _, answer in tuple(self._answers))

    def _forget(self) -> None:
        until = time.monotonic() - KEPT_S
        while self._answers and (self._bytes > MAX_BYTES or self._answers[0][0] < until):
            self._bytes -= self._answers.popleft()[1].size
