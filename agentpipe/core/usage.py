"""The tokens and cost of a run, summed over its requests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

USD = "usd"


class Usage:
    """Sums by name; ``usd`` is known only if every request had a price."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._unpriced = False

    def add(self, usage: Any) -> None:
        """Add the numbers of one or more requests; unknown keys are summed as well.

        Raises:
            TypeError: Not an object of numbers.
        """
        if not isinstance(usage, Mapping):
            raise TypeError("usage: expected an object")
        for name, number in usage.items():
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not math.isfinite(number):
                raise TypeError(f"usage: {str(name)[:40]!r} is not a number")
        for name, number in usage.items():
            self._sums[name] = self._sums.get(name, 0) + number
        self._unpriced |= bool(usage) and USD not in usage

    def to_dict(self) -> dict[str, Any]:
        """The sums by name, such as ``requests`` and ``input_tokens``; ``usd`` if known."""
        return {
            name: round(number, 9)
            for name, number in self._sums.items()
            if name != USD or not self._unpriced
        }
