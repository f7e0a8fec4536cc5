"""The agent of a chaos trial; imported by workers only."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any


class NotingAgent:
    """Records each start with its task and process, then sleeps."""

    def __init__(self, journal: str, pause_s: float) -> None:
        self._journal, self._pause_s = journal, pause_s

    def note(self, task_id: str) -> None:
        """Append a line to the journal; a killed process writes all of it or nothing."""
        line = {"task_id": task_id, "pid": os.getpid(), "at": time.time()}
        file = os.open(self._journal, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, json.dumps(line).encode() + b"\n")
        finally:
            os.close(file)

    async def execute(self, task: Any, _context: Any) -> str:
        """Answer after the pause."""
        self.note(task.task_id)
        await asyncio.sleep(self._pause_s)
        return "done"
