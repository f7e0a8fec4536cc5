"""How long to wait before trying again."""

from __future__ import annotations

# 2.0**1024 overflows, and an outage can last longer than that many attempts.
_MAX_DOUBLINGS = 64


def delay_s(attempt: int, first_s: float, max_s: float) -> float:
    """``first_s`` before attempt 1, twice as long before each further one, at most ``max_s``."""
    return min(max_s, first_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
