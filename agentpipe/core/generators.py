"""A generator that several loops share."""

from __future__ import annotations

from inspect import GEN_CLOSED, getgeneratorstate
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


def going_on(
    known: Generator[T, Any, Any] | None, begin: Callable[[], Generator[T, None, None]]
) -> Generator[T, Any, Any]:
    """``known`` as long as it has not ended, else a new one.

    A loop that is left must not drop it: what it has read and not given would be lost with it.
    """
    if known is None or getgeneratorstate(known) == GEN_CLOSED:
        return begin()
    return known
