"""Portion: how many records a reader takes at once.

Records taken by one reader of a group are not available to the others. So a reader takes what its
caller uses in a moment: one record for a slow caller, a full batch for a fast one.
"""

from __future__ import annotations

MOST = 100
# The target duration of a portion.
MOMENT_S = 0.05


class Portion:
    """Starts at one record and follows the caller's pace, at most doubling.

    Attributes:
        limit: The number of records to take next.
    """

    def __init__(self) -> None:
        self.limit = 1

    def used(self, number: int, seconds: float) -> None:
        """Record that the caller used ``number`` records in ``seconds``."""
        fitting = MOST if seconds <= 0 else int(number * MOMENT_S / seconds)
        self.limit = max(1, min(fitting, 2 * self.limit, MOST))
