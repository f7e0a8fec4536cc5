"""What counts as a number in values from outside: Python's bools are integers, JSON's are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeGuard


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is an integer; a bool or a float such as 3.0 is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is an integer or a float, also NaN or infinite; a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
