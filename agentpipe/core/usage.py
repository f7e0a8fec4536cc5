"""The tokens and cost of a run, summed over its requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentpipe.core.masking import shorten
from agentpipe.core.numbers import is_number
from agentpipe.core.outside import valid_text

USD = "usd"
# A double represents every integer up to here, and sums over all tasks stay finite.
MAX_NUMBER = 2**53
MAX_NAMES = 100
MAX_NAME_CHARS = 100


def numbers_in(usage: Any) -> dict[str, float]:
    """Return the valid numbers of a usage record, which can come from foreign code."""
    if not usage or not isinstance(usage, Mapping):
        return {}
    found = usage.items()
    return {name: number for name, number in found if isinstance(name, str) and _is_sound(number)}


def sum_of(*usages: Mapping[str, float]) -> dict[str, Any]:
    """Return the sum; it has ``usd`` only if every non-empty usage has it."""
    total = Usage()
    for each in filter(None, usages):
        total.add(each)
    return total.to_dict()


class Tokens(NamedTuple):
    """Tokens of one run by kind; ``input`` includes the cached ones."""

    input: int = 0
    output: int = 0
    cached: int = 0

    @classmethod
    def of(cls, usage: Mapping[str, Any]) -> Tokens:
        """Read the tokens from a run's usage."""
        return cls(*(int(usage.get(f"{kind}_tokens", 0)) for kind in cls._fields))


NO_TOKENS = Tokens()


class Usage:
    """Sums by name; ``usd`` is known only if every request had a price."""

    __slots__ = ("_sums", "_unpriced")

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._unpriced = False

    def add(self, usage: Any) -> str:
        """Add the numbers of one or more requests; unknown keys are summed too.

        An impossible number is left out, so that it does not cost an answer. So is a name beyond
        ``MAX_NAMES``. A sum stops at ``MAX_NUMBER``.

        Returns:
            What was left out and why; empty if nothing was.

        Raises:
            TypeError: Not an object of numbers.
        """
        if not isinstance(usage, Mapping):
            raise TypeError("usage: expected an object")
        numbers = [(_name(name), _number(name, value)) for name, value in usage.items()]
        flaws = [flaw for name, number in numbers if (flaw := self._add(name, number))]
        self._unpriced |= bool(usage) and (USD not in usage or _is_flawed(usage[USD]))
        return "; ".join(flaws)

    def _add(self, name: str, number: float) -> str:
        """Add a number, or return why it was left out."""
        if _is_flawed(number):
            return f"usage: {name!r} is {_shown(number)}, expected 0 to {MAX_NUMBER:,}"
        if name not in self._sums and len(self._sums) >= MAX_NAMES:
            return f"usage: {name!r} is one of more than {MAX_NAMES} names"
        self._sums[name] = min(MAX_NUMBER, self._sums.get(name, 0) + number)
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return the sums by name, such as ``requests`` and ``input_tokens``; ``usd`` if known."""
        return {
            name: round(number, 9)
            for name, number in self._sums.items()
            if name != USD or not self._unpriced
        }


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"usage: names must be strings, got {type(name).__name__}")
    return valid_text(shorten(name, MAX_NAME_CHARS))


def _number(name: Any, value: Any) -> float:
    """Return a plain int or float: JSON encoders do not know subclasses."""
    if not is_number(value):
        raise TypeError(f"usage: {shorten(str(name), 40)!r} is not a number")
    return int(value) if isinstance(value, int) else float(value)


def _is_sound(number: Any) -> bool:
    return is_number(number) and not _is_flawed(number)


def _is_flawed(number: float) -> bool:
    return not 0 <= number <= MAX_NUMBER  # True for NaN.


def _shown(number: float) -> str:
    """Show short numbers as they are; Python cannot print integers of several thousand digits."""
    is_long = isinstance(number, int) and number.bit_length() > 128  # noqa: PLR2004 - 39 digits
    return "an integer of more than 128 bits" if is_long else str(number)
