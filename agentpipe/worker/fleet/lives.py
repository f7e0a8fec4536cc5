"""Lives: how the processes of one place ended, and how long the next one is delayed."""

from __future__ import annotations

from dataclasses import dataclass

from agentpipe.core.backoff import delay_s

# A process that ends sooner than this after its start gets a growing pause.
SHORT_LIFE_S = 2.0
PAUSE_S, MAX_PAUSE_S = 0.5, 4.0
# A mistake in a file stays until the file is fixed.
MAX_PAUSE_OF_MISTAKES_S = 30.0


@dataclass(slots=True)
class Lives:
    """The lives of one place's processes, one after the other.

    Attributes:
        short: Number of consecutive short lives.
        mistakes: Number of consecutive lives that a mistake in a file kept from serving.
    """

    short: int = 0
    mistakes: int = 0

    def pause_s(self, life_s: float, *, has_served: bool, is_mistake: bool) -> float:
        """Count a process that lived ``life_s``; return the pause before its replacement."""
        self.mistakes = self.mistakes + 1 if is_mistake else 0
        self.short = self.short + 1 if is_mistake or life_s < SHORT_LIFE_S else 0
        # A process that served can be killed at any moment: one short life proves nothing.
        in_vain = self.short - 1 if has_served else self.short
        longest_s = MAX_PAUSE_OF_MISTAKES_S if is_mistake else MAX_PAUSE_S
        return delay_s(in_vain, PAUSE_S, longest_s) if in_vain > 0 else 0.0
