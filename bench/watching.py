"""Measures the cost of ``top``, for itself and for the fleet.

``python -m bench.watching [sqlite | redis | rabbitmq ...]``
"""

from __future__ import annotations

import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.settings import Settings
from bench.figures import show
from bench.fleet import AGENTPIPE, cpu_shares, fleet
from bench.servers import QUEUES, fresh, pid_of
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.fleet import Fleet

LOOKS, FRAMES, WATCH_S = 21, 7, 15.0


SERVERS = {"redis": RedisServer, "rabbitmq": RabbitServer}


def main() -> None:
    for name in sys.argv[1:] or ("sqlite", *SERVERS):
        kind = SERVERS.get(name)
        if kind is None:
            _on("sqlite", "", None)
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            kind(Path(folder) / name, environ=os.environ) as server,
        ):
            _on(name, fresh(server.url), pid_of(server))


def _on(name: str, broker: str, server: int | None) -> None:
    """Measure with a thousand idle agents that have all run once."""
    sys.stdout.write(f"\n{name}\n")
    with fleet(QUEUES, "Instant", broker) as scratch:
        scratch.send([{"question": "q"}] * QUEUES)
        with scratch.working("--processes", "1") as worker:
            scratch.results(QUEUES)
            _snapshots(scratch)
            _first_frame(scratch)
            _watched(scratch, worker, server)


def _snapshots(scratch: Fleet) -> None:
    store = open_store(Settings.from_env(scratch.environ))
    samples = []
    for _ in range(LOOKS):
        started = time.perf_counter()
        assert len(store.stats().queues) == QUEUES
        samples.append((time.perf_counter() - started) * 1_000)
    store.close()
    beside = f"median; {max(samples):.0f} ms at most"
    show("snapshot of 1,000 agents", f"{statistics.median(samples):.1f} ms", beside)


def _first_frame(scratch: Fleet) -> None:
    samples = []
    for _ in range(FRAMES):
        started = time.perf_counter()
        with _top(scratch) as (_, screen):
            _read_until(screen, b"delivered")
            samples.append((time.perf_counter() - started) * 1_000)
    beside = f"median, from the start of the process; {max(samples):.0f} ms at most"
    show("first frame", f"{statistics.median(samples):.0f} ms", beside)


def _watched(scratch: Fleet, worker: int, server: int | None) -> None:
    """Show processor time with a viewer, beside that without."""
    theirs = [worker] if server is None else [worker, server]
    time.sleep(3)
    alone = sum(cpu_shares(theirs, WATCH_S))
    with _top(scratch) as (pid, screen):
        _read_until(screen, b"delivered")
        threading.Thread(target=_drain, args=(screen,), daemon=True).start()
        time.sleep(3)
        own, *watched = cpu_shares([pid, *theirs], WATCH_S)
    show("top itself, a look a second", f"{own:.2%}", "of one core")
    beside = f"of one core more than {alone:.2%} without: worker and server"
    show("  the fleet meanwhile", f"{sum(watched) - alone:+.2%}", beside)


@contextmanager
def _top(scratch: Fleet) -> Iterator[tuple[int, int]]:
    """Start ``top``; yield its process id, and the other end of its terminal."""
    screen, theirs = pty.openpty()
    environ = {**scratch.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    subprocess.run(["stty", "rows", "24", "cols", "80"], stdin=theirs, check=True)
    process = subprocess.Popen(
        [*AGENTPIPE, "top"], env=environ, stdin=theirs, stdout=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield process.pid, screen
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(screen)


def _read_until(screen: int, words: bytes) -> None:
    seen = b""
    while words not in seen:
        seen += os.read(screen, 65_536)


def _drain(screen: int) -> None:
    with suppress(OSError):
        while os.read(screen, 65_536):
            pass


if __name__ == "__main__":
    main()
