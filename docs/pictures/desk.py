"""The almanac behind a bad line: failures of each kind for the picture."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import agentpipe
from actors.almanac import Almanac

FOR_EVER_S = 3_600.0
# What finding the shelf takes, as a share of looking up.
SHELF = 0.2
_calls = itertools.count(1)  # Per process: an agent is created anew after a failure.


class Desk(Almanac):
    """Answers like the almanac, except for some tasks, always the same ones.

    Args:
        down: The share of tasks whose service is down.
        stuck: The share that never ends.
        busy_every: Every n-th call is rate limited for ``busy_s``.
    """

    def __init__(
        self,
        pause_s: float,
        down: float = 0.0,
        stuck: float = 0.0,
        busy_every: int = 0,
        busy_s: float = 0.0,
    ) -> None:
        super().__init__(pause_s)
        self.down, self.stuck = down, stuck
        self.busy_every, self.busy_s = busy_every, busy_s

    async def execute(self, task: Any, context: Any) -> str:
        """Answer, or fail."""
        trace, asked = agentpipe.trace, {"question": task.question}
        with trace.span({"type": "tool", "tool_name": "find_shelf", "arguments": asked}) as span:
            await asyncio.sleep(self.pause_s * SHELF)
            span.add({"response": "dates"})
        with trace.span({"type": "tool", "tool_name": "look_up", "arguments": asked}) as span:
            answer = await super().execute(task, context)
            span.add({"response": answer})
        if self.busy_every and next(_calls) % self.busy_every == 0:
            raise agentpipe.InfraError("429: too many requests", retry_after_s=self.busy_s)
        luck = random.Random(task.task_id).random()  # noqa: S311 - nothing secret
        if luck < self.down:
            raise agentpipe.InfraError("the harbour office is closed")
        if luck > 1 - self.stuck:
            await asyncio.sleep(FOR_EVER_S)
        return answer
