"""Text for display: durations, counts, and text that is safe to print on a terminal.

All foreign text passes ``printable`` or ``printable_json`` on its way to a terminal or a log.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
_MIN_PLACES, _MAX_PLACES = 4, 12


def duration(seconds: float) -> str:
    """Format as ``1.5 s``, ``90 s``, ``5 min``, ``3.5 h`` or ``4 d``, in at most 7 characters."""
    if seconds < 10:  # noqa: PLR2004 - one digit
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.1f} h"
    return f"{seconds / DAY_S:.0f} d"


def dollars(usd: float, digits: int = 4) -> str:
    """Format as ``$1,234.50``, and less than a dollar in full, as ``$0.0000216``.

    Never with an exponent: a cut ``$2.1e-05`` would read as two dollars.
    """
    return f"${amount(usd, digits)}"


def amount(usd: float, digits: int = 4) -> str:
    """Format the number of ``dollars``; ``digits`` of less than a hundredth are not zeros."""
    if usd >= 1 or usd <= 0:
        return f"{usd:,.2f}"
    places = max(_MIN_PLACES, digits - 1 - math.floor(math.log10(usd)))
    whole, _, part = f"{usd:.{min(places, _MAX_PLACES)}f}".partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def counted(number: int, noun: str) -> str:
    """Format as ``1 failure``, ``1,234 failures``, ``2 crashes``."""
    ending = "" if number == 1 else "es" if noun.endswith("sh") else "s"
    return f"{number:,} {noun}{ending}"


def encodable(text: str) -> str:
    """Escape what JSON and databases cannot hold: a file name can contain undecodable bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str, width: int) -> str:
    """Return ``text`` on one line of at most ``width`` printable characters."""
    flat = printable(" ".join(text[: width * 4].split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def printable(text: str, keep: str = "\n") -> str:
    """Escape characters that could control a terminal or reorder a line.

    Escapes every character that is neither visible nor a space. Escape sequences (ASCII or C1),
    hyperlinks, clipboard access and bidirectional overrides all need one. Characters in ``keep``
    stay; if it has no newline, the result is one line.
    """
    if text.isprintable():
        return text
    return _SUSPICIOUS.sub(lambda run: _visible(run[0], keep, _escaped), text)


def printable_json(data: bytes) -> bytes:
    """Return JSON of the same value, without the characters that ``printable`` escapes.

    JSON itself escapes only characters below U+0020. ``data`` must have no whitespace between
    tokens.
    """
    if data.isascii() and b"\x7f" not in data:
        return data
    return _SUSPICIOUS.sub(lambda run: _visible(run[0], "", _json_escape), data.decode()).encode()


# Most text is ASCII, so few runs are checked character by character.
_SUSPICIOUS = re.compile(r"[^ -~]+")


def _visible(run: str, keep: str, escape: Callable[[str], str]) -> str:
    if run.isprintable():
        return run
    return "".join(
        character if character.isprintable() or character in keep else escape(character)
        for character in run
    )


@lru_cache(4_096)
def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


@lru_cache(4_096)
def _json_escape(character: str) -> str:
    """Return one four-digit escape, or two for a character beyond U+FFFF."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
