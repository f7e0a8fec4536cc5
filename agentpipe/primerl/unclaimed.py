"""Unclaimed: answers to requests whose connection is gone, for clients that connect again."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A client reconnects within moments; a trainer that has ended never asks for its answers.
KEPT_S = 600.0
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EnvAnswer:
    """The answer to one task.

    Attributes:
        messages: Each as its parts.
    """

    task_id: str
    messages: Sequence[Sequence[bytes]]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(len(part) for message in self.messages for part in message)


class Unclaimed:
    """The newest answers, each kept for ``KEPT_S``, up to ``MAX_BYTES`` in total."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, EnvAnswer]] = deque()
        self._bytes = 0

    def add(self, answer: EnvAnswer) -> None:
        """Keep an answer."""
        self._answers.append((time.monotonic(), answer))
        self._bytes += answer.size
        self._forget()

    def __iter__(self) -> Iterator[EnvAnswer]:
        """Iterate over the answers, oldest first."""
        self._forget()
        return (answer for _, answer in tuple(self._answers))

    def _forget(self) -> None:
        until = time.monotonic() - KEPT_S
        while self._answers and (self._bytes > MAX_BYTES or self._answers[0][0] < until):
            self._bytes -= self._answers.popleft()[1].size
