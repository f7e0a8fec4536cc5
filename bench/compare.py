"""Compares this checkout with another one, in turns: ``make compare BASE=../before``.

The other checkout needs its own ``.venv`` with the package. Each figure is a median, beside the
other checkout's and the ratio. The CPU time of all processes started for a figure is steadier than
its wall time where the machine has other work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import children_cpu_s, show, tasks
from bench.fleet import fleet, memory_mb, results_per_s
from bench.servers import fresh
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers.server import Server

SERVERS: tuple[type[Server], ...] = (RedisServer, RabbitServer)
CONCURRENCY = 16
# Run by the Python of either checkout, so it uses only public names.
BULK = """
import os, sys, time
from agentpipe import Dispatcher, Settings, load
number = int(sys.argv[1])
tasks = [{"question": "q" * 1500} for _ in range(number)]
settings = Settings(broker=os.environ["AGENTPIPE_BROKER"])
dispatcher = Dispatcher.open(load(os.environ["AGENT_COLLECTION_CONFIG_FILE"]), settings)
started = time.perf_counter()
dispatcher.send_many("bench", tasks)
print(number / (time.perf_counter() - started))
dispatcher.close()
"""


class Comparison:
    """Measures with both Pythons alternately, and prints a line per figure."""

    def __init__(self, base: str, rounds: int) -> None:
        self._pythons, self._rounds = (base, sys.executable), rounds

    def measure(self, label: str, unit: str, figure: Callable[[str], float]) -> None:
        """Measure a figure; ``figure`` takes a Python and returns a number."""
        samples: dict[str, list[float]] = {python: [] for python in self._pythons}
        cpu: dict[str, list[float]] = {python: [] for python in self._pythons}
        for number in range(self._rounds):
            for python in self._pythons[:: 1 if number % 2 else -1]:
                before = children_cpu_s()
                samples[python].append(figure(python))
                cpu[python].append(children_cpu_s() - before)
        self._show(label, unit, samples)
        self._show("  CPU of all its processes", "s", cpu)

    def _show(self, label: str, unit: str, samples: dict[str, list[float]]) -> None:
        base, new = (statistics.median(samples[python]) for python in self._pythons)
        spread = f"{min(samples[sys.executable]):,.2f} to {max(samples[sys.executable]):,.2f}"
        show(label, f"{new:,.2f} {unit}", f"{new / base:.2f} of {base:,.2f} before; {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("base", help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=("start", "sqlite", "redis", "rabbitmq"))
    parser.add_argument("--tasks", type=int, default=5_000)
    args = parser.parse_args()
    comparison = Comparison(str(Path(args.base).resolve() / ".venv/bin/python"), args.rounds)
    chosen = args.only or ("start", "sqlite", "redis", "rabbitmq")
    if "start" in chosen:
        _starts(comparison)
    if "sqlite" in chosen:
        _broker(comparison, "sqlite", lambda: "", args.tasks)
    for kind in SERVERS:
        if kind.kind in chosen:
            _on_server(comparison, kind, args.tasks)


def _starts(comparison: Comparison) -> None:
    for arguments in (("--help",), ("send", "bench", "q")):

        def started_ms(python: str, arguments: tuple[str, ...] = arguments) -> float:
            with fleet(8, "Instant", python=python) as scratch:
                scratch.run(*arguments)  # Compiles the code, and creates the store.
                begun = time.perf_counter()
                for _ in range(5):
                    scratch.run(*arguments)
                return (time.perf_counter() - begun) / 5 * 1_000

        comparison.measure(f"agentpipe {arguments[0]}", "ms", started_ms)


def _on_server(comparison: Comparison, kind: type[Server], number: int) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(kind(Path(folder) / kind.kind, environ=os.environ))
        _broker(comparison, kind.kind, lambda: fresh(server.url), number)


def _broker(comparison: Comparison, name: str, url: Callable[[], str], number: int) -> None:
    def sent_per_s(python: str) -> float:
        with fleet(8, "Instant", url(), python=python) as scratch:
            command = [python, "-c", BULK, str(number)]
            done = subprocess.run(
                command,
                env=scratch.environ,
                cwd=scratch.folder,
                check=True,
                stdout=subprocess.PIPE,
            )
            scratch.run("purge", "bench")
            return float(done.stdout)

    def ran_per_s(python: str) -> float:
        with fleet(8, "Instant", url(), CONCURRENCY, python=python) as scratch:
            scratch.send(tasks(number))
            with scratch.working("--processes", "2"):
                return results_per_s(scratch.results(number))

    def idle_mb(python: str) -> float:
        with fleet(8, "Instant", url(), python=python) as scratch:
            scratch.send([{"question": "q"}] * 8)
            with scratch.working("--processes", "1") as pid:
                scratch.results(8)
                return memory_mb(pid)

    comparison.measure(f"{name}: send_many, 1.5 KB", "/s", sent_per_s)
    comparison.measure(f"{name}: instant agents, two processes", "/s", ran_per_s)
    comparison.measure(f"{name}: an idle worker", "MB", idle_mb)


if __name__ == "__main__":
    main()
