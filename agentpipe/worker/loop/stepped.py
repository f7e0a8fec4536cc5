"""Stepped: a coroutine that says before each of its steps whose it is.

Only the loop's thread knows which run it executes, and it cannot say so while one holds it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Stepped(Coroutine[Any, Any, Any]):
    """Another coroutine, with ``enter(place)`` before each step and its answer back after it."""

    __slots__ = ("_coroutine", "_enter", "_place")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], enter: Callable[[int], int], place: int
    ) -> None:
        self._coroutine, self._enter, self._place = coroutine, enter, place

    def send(self, value: Any) -> Any:
        """Do the next step."""
        before = self._enter(self._place)
        try:
            return self._coroutine.send(value)
        finally:
            self._enter(before)

    def throw(self, *error: Any) -> Any:
        """Do the next step with an exception."""
        before = self._enter(self._place)
        try:
            return self._coroutine.throw(*error)
        finally:
            self._enter(before)

    def close(self) -> None:
        """End it."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """Its name, code, frame and state, for debuggers and libraries that look."""
        return getattr(self._coroutine, name)
