"""Coloured words on a terminal; plain elsewhere, or with ``NO_COLOR`` (no-color.org)."""

from __future__ import annotations

import os
import re
import sys

_GREEN, _RED, _YELLOW, _DIM = "32", "31", "33", "2"
_COLOURS = {
    "ok": _GREEN,
    **dict.fromkeys(("agent_error", "limit", "WARN", "cooldown", "paused"), _YELLOW),
    **dict.fromkeys(("infra_error", "eval_error", "crashed", "FAIL", "dead"), _RED),
    **dict.fromkeys(("cancelled", "stale"), _DIM),
}
_WORD = re.compile(r"(?<![\w:])(" + "|".join(_COLOURS) + r")(?![\w:])(?! 0\b)")


def shows_colours() -> bool:
    """Whether stdout is a terminal that supports colours."""
    able = os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
    return able and sys.stdout.isatty()


def coloured(text: str) -> str:
    """Colour each outcome and state in ``text``, except those with a count of 0."""
    return _WORD.sub(lambda match: f"\x1b[{_COLOURS[match[1]]}m{match[1]}\x1b[0m", text)
