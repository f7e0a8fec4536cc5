"""Stepped: a coroutine that marks each of its steps with its run.

Only the loop's thread knows which run it executes, and it cannot report that while a run blocks it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any


class Stepped(Coroutine[Any, Any, Any]):
    """Wraps a coroutine; during each step ``on_loop`` holds ``place + 1``."""

    __slots__ = ("_coroutine", "_mark", "_on_loop")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], on_loop: memoryview[int], place: int
    ) -> None:
        self._coroutine, self._on_loop, self._mark = coroutine, on_loop, place + 1

    def send(self, value: Any) -> Any:
        """Execute the next step."""
        on_loop = self._on_loop
        before, on_loop[0] = on_loop[0], self._mark
        try:
            return self._coroutine.send(value)
        finally:
            on_loop[0] = before

    def throw(self, *error: Any) -> Any:
        """Execute the next step with an exception."""
        on_loop = self._on_loop
        before, on_loop[0] = on_loop[0], self._mark
        try:
            return self._coroutine.throw(*error)
        finally:
            on_loop[0] = before

    def close(self) -> None:
        """Close the wrapped coroutine."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """The coroutine's name, code, frame and state, for debuggers and libraries."""
        return getattr(self._coroutine, name)
