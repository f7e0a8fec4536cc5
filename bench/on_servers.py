"""Figures of MCP servers: 50 concurrent runs with one each, and with one that all share."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_servers import load_catalogue
from agentpipe.engines.mcp.opening import Opening, ServerToOpen
from agentpipe.engines.mcp.running import running_servers
from agentpipe.engines.mcp.server_pool import SPARES
from agentpipe.worker.watch.child_memory import ChildMemory
from bench.figures import show
from bench.on_agents import answer, engine_of, instances_of
from tests.llm_stub import LlmStub, say

if TYPE_CHECKING:
    from tests.llm_stub import Reply, Request

RUNS, STARTS = 50, 5
SERVER = "time"


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of runs that are all at their first answer.

    Attributes:
        first_s: Seconds until the last of them has called the model.
    """

    first_s: float
    servers: int
    memory_mb: float


def measure() -> None:
    cores = os.cpu_count() or 1
    start_s, one_mb = asyncio.run(_one_server())
    show(f"start of one MCP server ({SERVER})", f"{start_s:.2f} s", f"{one_mb:.0f} MiB (PSS)")
    with tempfile.TemporaryDirectory(prefix="agentpipe-bench-") as folder:
        each, shared = (_at_once(Path(folder), sessions) for sessions in ("task", "context"))
    bar_s, bar_mb = start_s * RUNS / cores, one_mb * (RUNS + SPARES)
    beside = f"{each.first_s / bar_s:.2f} of one start x {RUNS} / {cores} cores"
    show(f"{RUNS} runs at once with a server each, first answers", f"{each.first_s:.1f} s", beside)
    beside = f"{each.memory_mb / bar_mb:.2f} of {RUNS} + {SPARES} such servers"
    show(f"  memory of {each.servers} servers", f"{each.memory_mb:.0f} MiB", beside)
    show("  with `sessions: context`, first answers", f"{shared.first_s:.1f} s")
    show("  memory", f"{shared.memory_mb:.0f} MiB", f"{shared.servers} server")


async def _one_server() -> tuple[float, float]:
    """The median start time of a server alone, and the memory of one."""
    target = ServerToOpen(load_catalogue(None).server({"name": SERVER}, {}), {}, 60.0)
    times_s, sizes = [], []
    for _ in range(STARTS):
        before = ChildMemory().bytes()
        started = time.perf_counter()
        opening = Opening(target)
        await opening.session()
        times_s.append(time.perf_counter() - started)
        sizes.append(ChildMemory().bytes() - before)
        await opening.close()
    return statistics.median(times_s[1:]), statistics.median(sizes[1:]) / 2**20


def _at_once(folder: Path, sessions: str) -> Figures:
    with LlmStub(_Meeting(RUNS)) as model:
        config: dict[str, Any] = {"model": "openai:m", "base_url": model.url, "sessions": sessions}
        config["servers"] = [{"name": SERVER}]
        spec = {"name": "bench", "type": "llm", "config": config}
        engine = engine_of(folder, {"kind": "agent", "spec": spec})
        meeting: Any = model._script  # noqa: SLF001 - ours
        started = time.perf_counter()
        asyncio.run(_run(engine))
    return Figures(meeting.at - started, meeting.servers, meeting.memory_mb)


async def _run(engine: Any) -> None:
    agents = instances_of(engine, RUNS)
    await asyncio.gather(*map(answer, agents))
    await asyncio.gather(*(agent.close() for agent in agents))


class _Meeting:
    """A model that answers once all runs have asked."""

    def __init__(self, number: int) -> None:
        self._missing, self._all = number, threading.Event()
        self.at = self.memory_mb = 0.0
        self.servers = 0

    def __call__(self, _: Request) -> Reply:
        self._missing -= 1
        if not self._missing:
            self.at = time.perf_counter()
            threading.Thread(target=self._look).start()
        return replace(say("fine"), after=self._all)

    def _look(self) -> None:
        """Measure once the spare servers, which start last, also run."""
        wanted = running_servers() + SPARES
        until = time.perf_counter() + 10
        while time.perf_counter() < until and running_servers() < min(wanted, RUNS + SPARES):
            if wanted <= SPARES + 1:
                break  # All share one.
            time.sleep(0.05)
        self.servers, self.memory_mb = running_servers(), ChildMemory().bytes() / 2**20
        self._all.set()


if __name__ == "__main__":
    measure()
