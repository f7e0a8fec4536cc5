"""Measures the cost of a thousand and more agents in one process, and recovery after kills.

``python -m bench.crowds [sqlite | redis | rabbitmq ...]``
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.chaos.ledger import recoveries_s, runs_in
from bench.figures import show, show_latencies
from bench.fleet import PATIENCE_S, cpu_shares, fleet, memory_mb, results_per_s, seconds
from bench.servers import fresh
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.fleet import Fleet
    from brokers.server import Server

AGENTS, ROUNDS = 1_000, 8
CROWDS = (5_000, 20_000)
KILLED_AGENTS, LEASE_S = 8, 5
SERVERS: dict[str, type[Server]] = {"redis": RedisServer, "rabbitmq": RabbitServer}


def measure(broker: str) -> None:
    """Measure on a separate server; each figure has an empty store."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kind = SERVERS.get(broker)
        server = stack.enter_context(kind(folder / broker, environ=os.environ)) if kind else None
        for figure in (turns, sizes, recoveries):
            figure(partial(fresh, server.url) if server else embedded)


def embedded() -> str:
    """The URL for a fleet with its own file."""
    return ""


def turns(url: Callable[[], str]) -> None:
    """Run task after task on each agent, with all agents at once.

    Runs of exactly one second end in step: a thousand slots become free at once, and the last waits
    for all others. Runs of different lengths end one by one, like those of models.
    """
    results = _turns(url, "Waiting")
    speed = results_per_s(results)
    _show(results, "1 s, all in step", speed, f"{speed / AGENTS:.2f} of ideal")
    results = _turns(url, "Spread")
    beside = f"{_filled(results):.2f} of the time in a run"
    _show(results, "0.5 to 1.5 s, spread out", results_per_s(results), beside)


def _turns(url: Callable[[], str], agent: str) -> list[dict[str, Any]]:
    with fleet(AGENTS, agent, url()) as scratch:
        scratch.send([{"question": "q"}] * (ROUNDS * AGENTS))
        with scratch.working("--processes", "1", "--slots", str(AGENTS)) as pid:
            time.sleep(ROUNDS // 2)
            show(f"{AGENTS:,} agents waiting, their memory", f"{memory_mb(pid):.0f} MB")
            return scratch.results(ROUNDS * AGENTS)


def _show(results: list[dict[str, Any]], waits: str, speed: float, beside: str) -> None:
    show(f"{AGENTS:,} agents waiting {waits}, one process", f"{speed:,.0f}/s", beside)
    show_latencies("  from a free slot to the next run", sorted(_gaps_ms(results)))


def _by_agent(results: list[dict[str, Any]]) -> list[list[tuple[float, float]]]:
    """Start and end times of each agent's runs, in order."""
    runs: dict[str, list[tuple[float, float]]] = {}
    for each in results:
        run = seconds(each["started_at"]), seconds(each["finished_at"])
        runs.setdefault(each["agent"], []).append(run)
    return list(map(sorted, runs.values()))


def _filled(results: list[dict[str, Any]]) -> float:
    """The share of the time in which agents ran, from their first run to their last."""
    agents = _by_agent(results)
    ran_s = sum(ended - began for runs in agents for began, ended in runs)
    return ran_s / sum(runs[-1][1] - runs[0][0] for runs in agents)


def _gaps_ms(results: list[dict[str, Any]]) -> Iterator[float]:
    """The gap between two runs of an agent that always has more tasks."""
    for runs in _by_agent(results):
        for (_, ended), (began, _) in pairwise(runs):
            yield (began - ended) * 1_000


def sizes(url: Callable[[], str]) -> None:
    """Run all agents; all of them wait."""
    for number in CROWDS:
        with fleet(number, "Waiting", url(), pause_s=60) as scratch:
            scratch.send([{"question": "q"}] * number)
            with scratch.working("--processes", "1", "--slots", str(number)) as pid:
                while scratch.status()["running"] < number:
                    time.sleep(0.2)
                (share,) = cpu_shares([pid], 10)
                show(f"{number:,} agents waiting, one process", f"{memory_mb(pid):.0f} MB")
                show("  of one core", f"{share:.2%}")


def recoveries(url: Callable[[], str]) -> None:
    """Kill one of two worker processes; the other one has room for its tasks."""
    for label, workers, both in (
        ("killed beside its supervisor", _supervised, False),
        ("killed under plain Dramatiq", _plain, False),
        ("killed with its supervisor", _supervised, True),
    ):
        took_s = _recovered_s(url(), workers, both=both)
        beside = f"until the last of its {len(took_s)} tasks ran again, lease {LEASE_S} s"
        show(label, f"{max(took_s, default=0):.1f} s", beside)


def _recovered_s(broker: str, workers: Callable[[Fleet], Any], *, both: bool) -> list[float]:
    with ExitStack() as stack:
        journal = Path(stack.enter_context(tempfile.NamedTemporaryFile()).name)
        scratch = stack.enter_context(
            fleet(KILLED_AGENTS, "Holding", broker, journal=str(journal), pause_s=600)
        )
        scratch.environ |= {"AGENTPIPE_LEASE_S": str(LEASE_S), "AGENTPIPE_GRACE_S": "0"}
        scratch.send([{"question": "q"}] * KILLED_AGENTS)
        for _ in range(2):
            stack.enter_context(workers(scratch))
        _await_lines(journal, KILLED_AGENTS)
        pid = runs_in(journal)[0].pid
        lost = sum(run.pid == pid for run in runs_in(journal))
        at = time.time()
        for each in (*_above(pid), pid) if both else (pid,):
            os.kill(each, signal.SIGKILL)
        _await_lines(journal, KILLED_AGENTS + lost)
        return list(recoveries_s(runs_in(journal), {pid: at}))


@contextmanager
def _supervised(scratch: Fleet) -> Iterator[None]:
    command = [sys.executable, "-m", "agentpipe", "work", "--processes", "1", "--slots", "8"]
    with _running(scratch, command):
        yield


@contextmanager
def _plain(scratch: Fleet) -> Iterator[None]:
    command = [sys.executable, "-m", "dramatiq", "agentpipe.actors", "--processes", "1"]
    with _running(scratch, command):
        yield


@contextmanager
def _running(scratch: Fleet, command: list[str]) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        command, env=scratch.environ, cwd=scratch.folder, stdout=quiet, stderr=quiet
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _above(pid: int) -> list[int]:
    """The processes between this one and ``pid``, the highest first."""
    found: list[int] = []
    while (pid := int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])) > 1:
        if pid == os.getpid():
            return found[::-1]
        found.append(pid)
    return []


def _await_lines(journal: Path, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(journal.read_bytes().splitlines()) < number:
        if time.monotonic() > deadline:
            raise TimeoutError(journal.read_text())
        time.sleep(0.02)


def main() -> None:
    for name in sys.argv[1:] or ("sqlite", *SERVERS):
        sys.stdout.write(f"\n{name}\n")
        measure(name)


if __name__ == "__main__":
    main()
