"""Unhandled: how many items a command could not handle, and why it could not handle the first."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_PROBLEMS = 20


@dataclass(slots=True)
class Unhandled:
    """Counts such items; the outcomes of commands extend it.

    Attributes:
        failed: The number of items that could not be handled.
        problems: Why, up to ``MAX_PROBLEMS``.
    """

    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str, number: int = 1) -> None:
        """Count items that share a problem."""
        self.failed += number
        if number and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
