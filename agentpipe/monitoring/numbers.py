"""Formats the numbers of a fleet in few characters, with their units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core import text

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN, NONE = "?", "-"
BARS = "▁▂▃▄▅▆▇█"
# Below these limits, the larger unit would hide too many digits.
_WHOLE, _THOUSANDS, _TENTHS, _FRACTIONS = 100_000, 1_000_000, 10, 100
_MEBIBYTE, _GIBIBYTE = 1024**2, 1024**3
_SPENT_CHARS, _LITTLE = 9, "<$0.00001"
# Stores and their readers add rewards in floating point.
_ROUNDING = 1e-6


def count(number: int | None) -> str:
    """A count in at most seven characters."""
    if number is None:
        return UNKNOWN
    if number < _WHOLE:
        return f"{number:,}"
    if number < _THOUSANDS:
        return f"{number / 1_000:.0f}k"
    return f"{number / 1_000_000:.1f}M"


def rate(per_s: float | None) -> str:
    """Tasks per second; slow rates per minute or hour, since 0.0/s says nothing."""
    if per_s is None or per_s <= 0:
        return NONE if per_s is None else "0/s"
    if per_s >= _FRACTIONS:
        return f"{count(round(per_s))}/s"
    if per_s >= 1:
        return f"{per_s:.1f}/s"
    if per_s * _TENTHS >= 1:
        return f"{per_s:.2f}/s"
    if per_s * text.MINUTE_S >= 1:
        return f"{per_s * text.MINUTE_S:.0f}/min"
    return f"{per_s * text.HOUR_S:.0f}/h"


def duration(seconds: float | None) -> str:
    """A duration; ``-`` for None."""
    return NONE if seconds is None else text.duration(seconds)


def lag(seconds: float | None) -> str:
    """Event loop lag, in milliseconds below a second."""
    if seconds is None:
        return NONE
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else duration(seconds)


def size(number: int | None) -> str:
    """A number of bytes."""
    if number is None:
        return NONE
    if number < _GIBIBYTE:
        return f"{number / _MEBIBYTE:.0f} MiB"
    return f"{number / _GIBIBYTE:.1f} GiB"


def money(usd: float) -> str:
    """US dollars; small amounts with fractions of a cent, few enough for a column."""
    return text.dollars(usd, digits=2)


def spent(usd: float) -> str:
    """US dollars in at most nine characters, since a number that is cut is another one."""
    if not usd:
        return NONE
    shown = money(usd)
    if len(shown) <= _SPENT_CHARS:
        return shown
    return f"${count(round(usd))}" if usd >= 1 else _LITTLE


def quality(rewards: float, number: int) -> str:
    """The share of results that pass; if they are graded, their mean reward."""
    if not number:
        return NONE
    mean = rewards / number
    return f"{mean:.1%}" if passes_or_fails(rewards) else f"{mean:.3f}"


def judged(rewards: float, number: int) -> str:
    """What the quality is, with its denominator."""
    name = "pass" if passes_or_fails(rewards) else "reward"
    return f"{name} {quality(rewards, number)} of {count(number)}"


def passes_or_fails(rewards: float) -> bool:
    """Whether a sum of rewards can be one of zeros and ones."""
    return abs(rewards - round(rewards)) < _ROUNDING


def sparkline(values: Sequence[float]) -> str:
    """One bar per value; only 0 has the lowest bar."""
    top = max(values, default=0.0)
    if top <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[_level(value / top)] for value in values)


def _level(part: float) -> int:
    return 0 if part <= 0 else max(1, round(part * (len(BARS) - 1)))
