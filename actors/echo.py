"""Echo: the smallest agent, to check that tasks travel and come back."""

from __future__ import annotations

from typing import Any


class Echo:
    """Answers with the question."""

    async def execute(self, task: Any, context: Any) -> Any:  # noqa: ARG002 - every agent gets it
        """Return the question."""
        return task.question
