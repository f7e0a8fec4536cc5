"""The agents that the benchmarks run."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any


class Instant:
    async def execute(self, _task: Any, _context: Any) -> str:
        return "42"


class Wordy:
    """Makes a Result of some 3 KB."""

    async def execute(self, _task: Any, _context: Any) -> str:
        return "42 " * 600


class Waiting:
    def __init__(self, pause_s: float = 1.0) -> None:
        self.pause_s = pause_s

    async def execute(self, _task: Any, _context: Any) -> str:
        await asyncio.sleep(self.pause_s)
        return "42"


class Noting(Waiting):
    """Notes in a file when it starts."""

    def __init__(self, journal: str, pause_s: float) -> None:
        super().__init__(pause_s)
        self.journal = Path(journal)

    async def execute(self, task: Any, context: Any) -> str:
        with self.journal.open("a") as file:
            file.write(f"{time.time()}\n")
        return await super().execute(task, context)


class Holding(Waiting):
    """Notes each start with its task and process; holds the interpreter where it is asked to."""

    def __init__(self, journal: str, pause_s: float) -> None:
        # Here, since the other agents run under older versions, too.
        from agentpipe.chaos.agent import NotingAgent

        super().__init__(pause_s)
        self._noting = NotingAgent(journal, pause_s)

    async def execute(self, task: Any, context: Any) -> str:
        self._noting.note(task.task_id)
        if task.question == "hold":
            re.match(r"(a+)+$", "a" * 60 + "b")
        return await super().execute(task, context)
