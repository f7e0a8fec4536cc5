"""Measures how long commands take to start."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.figures import show
from bench.fleet import AGENTPIPE, fleet

if TYPE_CHECKING:
    from bench.fleet import Fleet

SENDER = """
import os
from agentpipe import AgentPipeline
file = os.environ["AGENT_COLLECTION_CONFIG_FILE"]
assert AgentPipeline(file).send_task("bench", {"question": "q"})
"""


def measure() -> None:
    with fleet(8, "Instant") as scratch:
        bare_ms = _start_ms([sys.executable, "-c", "pass"], scratch)
        sender_ms = _start_ms([sys.executable, "-c", SENDER], scratch)
        show("AgentPipeline.send_task", f"{sender_ms:.0f} ms", f"{sender_ms - bare_ms:.0f} ms more")
        for arguments in (["--help"], ["send", "bench", "q"]):
            took_ms = _start_ms([*AGENTPIPE, *arguments], scratch)
            beside = f"{took_ms - bare_ms:.0f} ms more than bare Python's {bare_ms:.0f} ms"
            show(f"agentpipe {arguments[0]}", f"{took_ms:.0f} ms", beside)


def _start_ms(command: list[str], scratch: Fleet) -> float:
    samples = []
    for _ in range(11):
        started = time.perf_counter()
        subprocess.run(command, env=scratch.environ, capture_output=True, check=True)
        samples.append((time.perf_counter() - started) * 1000)
    return statistics.median(samples)
