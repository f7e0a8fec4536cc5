"""Portions: splits a sequence into parts of a limited size."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Value = TypeVar("Value")


def portions_of(values: Sequence[Value], size: int) -> list[Sequence[Value]]:
    """Split the values into slices of ``size``; the last one can be shorter."""
    return [values[first : first + size] for first in range(0, len(values), size)]
