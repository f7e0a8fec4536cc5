"""Measures the cost of a scrape with 1,000 agents.

``python -m bench.scrape [sqlite | redis | rabbitmq ...]``

The exporter reuses a snapshot for longer the more it cost, so scrapes are 15 s apart, as in
production. The waits take 98 s per broker, in addition to the work itself.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from bench.figures import show
from bench.fleet import AGENTPIPE, cpu_shares, fleet
from bench.servers import QUEUES, fresh, pid_of
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.fleet import Fleet

SERVERS = {"redis": RedisServer, "rabbitmq": RabbitServer}
EVERY_S, SCRAPES = 15.0, 4
IDLE_S = 20.0


def measure(broker: str) -> None:
    """Print one broker's figures."""
    sys.stdout.write(f"\n{broker}, load {os.getloadavg()[0]:.0f}; takes some two minutes\n")
    sys.stdout.flush()
    kind = SERVERS.get(broker)
    if kind is None:
        _on("", None)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        kind(Path(folder) / broker, environ=os.environ) as server,
    ):
        _on(fresh(server.url), pid_of(server))


def _on(url: str, server: int | None) -> None:
    """Measure with a thousand idle agents that have all run once."""
    with fleet(QUEUES, "Instant", url) as scratch:
        scratch.send([{"question": "q"}] * QUEUES)
        with scratch.working("--processes", "1") as worker:
            scratch.results(QUEUES)
            time.sleep(3)
            theirs = [worker] if server is None else [worker, server]
            idle = sum(cpu_shares(theirs, IDLE_S))
            with _exporter(scratch) as (exporter, address):
                _scraped(address, exporter, theirs, idle)


def _scraped(address: str, exporter: int, theirs: list[int], idle: float) -> None:
    _fetch(address)  # Connects, and declares what it needs.
    time.sleep(EVERY_S)
    walls_ms: list[float] = []
    scraping = threading.Thread(target=_scrape, args=(address, walls_ms))
    scraping.start()
    own, *watched = cpu_shares([exporter, *theirs], EVERY_S * SCRAPES)
    scraping.join()
    most = f"median of {SCRAPES}; {max(walls_ms):.0f} ms at most"
    show("scrape of 1,000 agents", f"{statistics.median(walls_ms):.0f} ms", most)
    beside = f"of one core at {EVERY_S:.0f} s, {own * EVERY_S * 1000:.0f} ms each"
    show("  the exporter", f"{own:.2%}", beside)
    beside = f"of one core more than {idle:.2%} without: worker and server"
    show("  the fleet meanwhile", f"{sum(watched) - idle:+.2%}", beside)


def _scrape(address: str, walls_ms: list[float]) -> None:
    for number in range(SCRAPES):
        time.sleep(EVERY_S / 2 if number == 0 else EVERY_S)
        walls_ms.append(_fetch(address))


def _fetch(address: str) -> float:
    began = time.perf_counter()
    with urlopen(address, timeout=30) as answer:
        text = answer.read()
    assert b"agentpipe_up 1.0" in text
    assert b"agentpipe_tasks_total" in text
    return (time.perf_counter() - began) * 1000


@contextmanager
def _exporter(scratch: Fleet) -> Iterator[tuple[int, str]]:
    process = subprocess.Popen(
        [*AGENTPIPE, "metrics", "--port", "0"], env=scratch.environ, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.pid, process.stdout.readline().decode().rpartition(" ")[2].strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    for broker in sys.argv[1:] or ("sqlite", *SERVERS):
        measure(broker)


if __name__ == "__main__":
    main()
