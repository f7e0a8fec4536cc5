"""A generator shared by several loops."""

from __future__ import annotations

from inspect import GEN_CLOSED, getgeneratorstate
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


def going_on(
    known: Generator[T, Any, Any] | None, begin: Callable[[], Generator[T, None, None]]
) -> Generator[T, Any, Any]:
    """Return ``known`` unless it has ended, else a new generator.

    A loop that exits early must not drop the generator: items read but not yet yielded would be
    lost.
    """
    if known is None or getgeneratorstate(known) == GEN_CLOSED:
        return begin()
    return known
