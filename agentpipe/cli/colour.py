"""Coloured words on a terminal; plain elsewhere, or with ``NO_COLOR`` (no-color.org)."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from agentpipe.show.tones import TONES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.show.tones import Tone

_TONES: Mapping[str, Tone] = {
    **TONES,
    **dict.fromkeys(("WARN", "cooldown", "paused"), "fair"),
    **dict.fromkeys(("FAIL", "dead"), "bad"),
}
# Green, yellow, red and dim.
_CODES: Mapping[Tone, str] = {"good": "32", "fair": "33", "bad": "31", "faint": "2"}
_WORD = re.compile(r"(?<![\w:])(" + "|".join(_TONES) + r")(?![\w:])(?! 0\b)")


def shows_colours() -> bool:
    """Whether stdout is a terminal that supports colours."""
    able = os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
    return able and sys.stdout.isatty()


def coloured(text: str) -> str:
    """Colour each outcome and state in ``text``, except those with a count of 0."""
    return _WORD.sub(lambda match: f"\x1b[{_CODES[_TONES[match[1]]]}m{match[1]}\x1b[0m", text)
