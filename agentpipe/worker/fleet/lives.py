"""Lives: how the processes of one place have ended, and how long the next one waits for that."""

from __future__ import annotations

from dataclasses import dataclass

from agentpipe.core.backoff import delay_s

# After one that ended sooner than this after its start there is a growing pause.
SHORT_LIFE_S = 2.0
PAUSE_S, MAX_PAUSE_S = 0.5, 4.0
# A mistake in a file stays until it is mended.
MAX_PAUSE_OF_MISTAKES_S = 30.0


@dataclass(slots=True)
class Lives:
    """Those of one place, one after the other.

    Attributes:
        short: How many short ones there were in a row.
        mistakes: How often in a row a mistake in a file kept one from serving.
    """

    short: int = 0
    mistakes: int = 0

    def pause_s(self, life_s: float, *, has_served: bool, is_mistake: bool) -> float:
        """Count one that has ended after ``life_s``; returns the pause before its replacement."""
        self.mistakes = self.mistakes + 1 if is_mistake else 0
        self.short = self.short + 1 if is_mistake or life_s < SHORT_LIFE_S else 0
        # What has served can be killed at any moment: one short life says nothing yet.
        in_vain = self.short - 1 if has_served else self.short
        longest_s = MAX_PAUSE_OF_MISTAKES_S if is_mistake else MAX_PAUSE_S
        return delay_s(in_vain, PAUSE_S, longest_s) if in_vain > 0 else 0.0
