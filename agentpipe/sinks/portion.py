"""Portion: how many records a reader takes at once.

What one reader of a group has taken, no other gets. So it takes what its caller uses in a moment:
one record for a slow caller, a full batch for a fast one.
"""

from __future__ import annotations

MOST = 100
# What a portion should last.
MOMENT_S = 0.05


class Portion:
    """Begins with one record and follows the caller's pace, at most doubling.

    Attributes:
        limit: Number of records to take next.
    """

    def __init__(self) -> None:
        self.limit = 1

    def used(self, number: int, seconds: float) -> None:
        """The caller has used so many records in so much time."""
        fitting = MOST if seconds <= 0 else int(number * MOMENT_S / seconds)
        self.limit = max(1, min(fitting, 2 * self.limit, MOST))
