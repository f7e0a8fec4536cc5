"""Text for people: durations, counts, and lines that are safe to print on a terminal."""

from __future__ import annotations

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def duration(seconds: float) -> str:
    """``1.5 s``, ``90 s``, ``5 min``, ``3.5 h``, ``4 d``: at most seven characters, up to years."""
    if seconds < 10:  # noqa: PLR2004 - one digit
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.1f} h"
    return f"{seconds / DAY_S:.0f} d"


def counted(number: int, noun: str) -> str:
    """``1 failure``, ``1,234 failures``, ``2 crashes``."""
    ending = "" if number == 1 else "es" if noun.endswith("sh") else "s"
    return f"{number:,} {noun}{ending}"


def one_line(text: str, width: int) -> str:
    """``text`` on one line of at most ``width`` printable characters."""
    flat = printable(" ".join(text[: width * 4].split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def printable(text: str) -> str:
    """``text`` with control characters, which could steer a terminal, as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
