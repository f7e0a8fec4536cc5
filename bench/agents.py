"""The agents that the benchmarks run."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import Any


class Instant:
    async def execute(self, _task: Any, _context: Any) -> str:
        return "42"


class Wordy:
    """Makes a Result of 3 KB: it has the answer, its trace and an evaluation repeat it."""

    async def execute(self, _task: Any, _context: Any) -> str:
        return "42 " * 200


class Waiting:
    def __init__(self, pause_s: float = 1.0) -> None:
        self.pause_s = pause_s

    async def execute(self, _task: Any, _context: Any) -> str:
        await asyncio.sleep(self.pause_s)
        return "42"


class Spread:
    """Waits for 0.5 to 1.5 s, so runs end one by one."""

    async def execute(self, task: Any, _context: Any) -> str:
        await asyncio.sleep(0.5 + _drawn(task.task_id))
        return "42"


class Noting(Waiting):
    """Writes each start to a file."""

    def __init__(self, journal: str, pause_s: float) -> None:
        super().__init__(pause_s)
        self.journal = Path(journal)

    async def execute(self, task: Any, context: Any) -> str:
        with self.journal.open("a") as file:
            file.write(f"{time.time()}\n")
        return await super().execute(task, context)


class Holding(Waiting):
    """Notes each start with task and process; holds the interpreter if the task asks for it."""

    def __init__(self, journal: str, pause_s: float) -> None:
        # Imported here, because the other agents also run under older versions.
        from agentpipe.chaos.agent import NotingAgent

        super().__init__(pause_s)
        self._noting = NotingAgent(journal, pause_s)

    async def execute(self, task: Any, context: Any) -> str:
        self._noting.note(task.task_id)
        if task.question == "hold":
            re.match(r"(a+)+$", "a" * 60 + "b")
        return await super().execute(task, context)


class Sampled(Waiting):
    """Notes each start; fails or takes ``times`` as long, by the SHA-256 of its task's id.

    With ``slow="each"``, one sample of each group is slow; with ``"drawn"``, each with probability
    0.1.
    """

    def __init__(
        self,
        journal: str,
        pause_s: float,
        *,
        failing: float = 0,
        slow: str = "none",
        times: int = 1,
    ) -> None:
        # Imported here, because the other agents also run under older versions.
        from agentpipe.chaos.agent import NotingAgent

        super().__init__(pause_s)
        self._noting = NotingAgent(journal, pause_s)
        self.failing, self.slow, self.times = failing, slow, times

    async def execute(self, task: Any, _context: Any) -> str:
        self._noting.note(task.task_id)
        await asyncio.sleep(self.pause_s * (self.times if self._is_slow(task) else 1))
        if _drawn(f"fails {task.task_id}") < self.failing:
            raise ConnectionError("the service is away")
        return str(task.sample_index % 2)

    def _is_slow(self, task: Any) -> bool:
        if self.slow == "each":
            return bool(task.sample_index == int(task.group_size * _drawn(task.group_id)))
        return self.slow == "drawn" and _drawn(f"slow {task.task_id}") < 0.1


def _drawn(text: str) -> float:
    """A number in [0, 1), always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
