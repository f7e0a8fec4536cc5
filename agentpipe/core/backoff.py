"""Exponential backoff."""

from __future__ import annotations

# 2.0**1024 overflows, and an outage can last longer than that many attempts.
_MAX_DOUBLINGS = 64


def delay_s(attempt: int, first_s: float, max_s: float) -> float:
    """Return the delay before an attempt: ``first_s``, doubled per attempt, at most ``max_s``."""
    return min(max_s, first_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
