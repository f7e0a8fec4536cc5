"""Measurements that are the same on every server."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import latencies_ms, show, show_latencies, tasks
from bench.fleet import PATIENCE_S, cpu_shares, fleet, memory_mb, results_per_s
from bench.recording import attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers.server import Server

QUEUES = 1_000
LEASE_S = 5


def pid_of(server: Server) -> int:
    state = json.loads((server.folder / "server.json").read_text())
    return int(state["processes"][-1][0])


def fresh(url: str) -> str:
    """The URL of an empty store."""
    return f"{url}?prefix={uuid.uuid4().hex[:8]}"


def delivered_per_s(broker: str, number: int, concurrency: int) -> float:
    """Run eight instant agents in two processes, each Result into the embedded stream."""
    with fleet(8, "Instant", broker, concurrency) as scratch:
        scratch.send(tasks(number))
        with scratch.working("--processes", "2"):
            scratch.await_results(number)
        return results_per_s(scratch.results(number))


def latencies_ms_of(broker: str, number: int) -> list[float]:
    """Latencies of eight idle agents; sorted."""
    with fleet(8, "Instant", broker) as scratch, scratch.working("--processes", "2"):
        return latencies_ms(scratch, number)


def idle(server: Server, broker: str, look: Callable[[], None] | None = None) -> None:
    """Measure a thousand idle queues, then single tasks."""
    with fleet(QUEUES, "Instant", broker) as scratch:
        scratch.send([{"question": "q"}] * QUEUES)
        started = time.perf_counter()
        with scratch.working("--processes", "1") as pid:
            scratch.results(QUEUES)
            took_s = time.perf_counter() - started
            show("1,000 queues, until each has answered", f"{took_s:.1f} s", "from the start")
            time.sleep(3)
            share, servers = cpu_shares([pid, pid_of(server)], 15)
            show("  idle", f"{share:.2%}", f"of one core, {memory_mb(pid):.0f} MB")
            beside = f"of one core, {memory_mb(pid_of(server)):.0f} MB"
            show(f"  {server.kind} meanwhile", f"{servers:.2%}", beside)
            if look is not None:
                look()
            show_latencies("  from send to start", latencies_ms(scratch, 200, before=QUEUES))


def killed(url: str) -> None:
    for number in (1, 1_000):
        attempt(f"{number:,} running, all running again", _killed, url, number)


def _killed(url: str, number: int) -> None:
    took_s = _again_after_s(fresh(url), number)
    beside = f"after kill -9, lease {LEASE_S} s"
    show(f"{number:,} running, all running again", f"{took_s:.1f} s", beside)


def _again_after_s(broker: str, number: int) -> float:
    with tempfile.NamedTemporaryFile() as journal:
        noted = Path(journal.name)
        with fleet(number, "Noting", broker, journal=journal.name, pause_s=600) as scratch:
            scratch.environ |= {"AGENTPIPE_LEASE_S": str(LEASE_S), "AGENTPIPE_GRACE_S": "0"}
            scratch.send([{"question": "q"}] * number)
            with scratch.working("--processes", "1") as pid:
                _starts(noted, number)
                killed_at = time.time()
                os.kill(pid, signal.SIGKILL)
                return max(_starts(noted, 2 * number)) - killed_at


def _starts(journal: Path, number: int) -> list[float]:
    deadline = time.monotonic() + PATIENCE_S
    while len(lines := journal.read_text().splitlines()) < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(lines)} of {number} runs started")
        time.sleep(0.05)
    return list(map(float, lines))
