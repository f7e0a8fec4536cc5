"""Measures ``agentpipe why`` with a million waiting tasks: ``python -m bench.asking``.

Each figure is the time of a whole command that asks for the last task of the queue: the median of
several runs, alternating with a bare start of the same program.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Offer, Queue
from agentpipe.settings import Settings
from bench.figures import show
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from brokers.server import Server

# Short payloads: only the number of tasks counts here.
PAYLOAD = b'{"schema":1,"question":"q"}'
MILLION, BATCH, ROUNDS = 1_000_000, 5_000, 9
# A message costs RabbitMQ a kilobyte of memory, and `why` does not search its queues anyway.
OF_RABBITMQ = 200_000
UNKNOWN = 1
SERVERS: dict[str, tuple[type[Server], int]] = {
    "redis": (RedisServer, MILLION),
    "rabbitmq": (RabbitServer, OF_RABBITMQ),
}


def measure(broker: str) -> None:
    """Measure on a separate server, with enough memory free."""
    with tempfile.TemporaryDirectory() as folder:
        if broker == "sqlite":
            _measure(f"sqlite:///{folder}/broker.db", MILLION)
            return
        kind, tasks = SERVERS[broker]
        with kind(Path(folder) / broker, environ=os.environ) as server:
            _measure(server.url, tasks)


def _measure(url: str, tasks: int) -> None:
    """Time the command and a bare start, while all tasks wait for one agent."""
    with closing(open_store(Settings(broker=url))) as store:
        _fill(store, tasks)
    asked_ms, bare_ms = [], []
    for _ in range(ROUNDS):
        bare_ms.append(_took_ms(url, "--version"))
        asked_ms.append(_took_ms(url, "why", f"task-{tasks - 1}", "--json"))
    ours, bare = statistics.median(asked_ms), statistics.median(bare_ms)
    spread = f"{min(asked_ms):.0f} to {max(asked_ms):.0f} ms"
    beside = f"median, {spread}; {ours / bare:.1f} of `agentpipe --version` {bare:.0f} ms"
    show(f"why, of the last of {tasks:,} that wait", f"{ours:.0f} ms", beside)


def _fill(store: Store, tasks: int) -> None:
    store.declare([Queue("crowd", max_waiting=tasks)])
    for first in range(0, tasks, BATCH):
        offers = [Offer(f"task-{first + n}", PAYLOAD) for n in range(min(BATCH, tasks - first))]
        store.offer("crowd", offers, round_robin=False)


def _took_ms(url: str, *arguments: str) -> float:
    environ = {**os.environ, "AGENTPIPE_BROKER": url}
    begun = time.perf_counter()
    command = [sys.executable, "-m", "agentpipe", *arguments]
    ended = subprocess.run(
        command, env=environ, check=False, stdout=subprocess.PIPE, cwd=tempfile.gettempdir()
    )
    took_ms = (time.perf_counter() - begun) * 1_000
    # On RabbitMQ the answer is unsure.
    assert ended.returncode == (UNKNOWN if b'"unsure"' in ended.stdout else 0), ended.stdout
    return took_ms


if __name__ == "__main__":
    for name in ("sqlite", *SERVERS):
        sys.stdout.write(f"{name}\n")
        measure(name)
