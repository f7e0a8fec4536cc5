"""Portions: how much one call of a script handles, since it stops the server for as long."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Value = TypeVar("Value")

PORTION = 500


def portions_of(values: Sequence[Value]) -> list[Sequence[Value]]:
    """Split the values by calls."""
    return [values[first : first + PORTION] for first in range(0, len(values), PORTION)]
