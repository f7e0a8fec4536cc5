"""The agents that the benchmarks run."""

from __future__ import annotations

import asyncio
from typing import Any


class Instant:
    async def execute(self, _task: Any, _context: Any) -> str:
        return "42"


class Waiting:
    def __init__(self, pause_s: float = 1.0) -> None:
        self.pause_s = pause_s

    async def execute(self, _task: Any, _context: Any) -> str:
        await asyncio.sleep(self.pause_s)
        return "42"
