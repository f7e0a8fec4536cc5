"""Figures of other task runners on Redis, in turns with agentpipe on the same server.

Their tasks do nothing and leave nothing; agentpipe keeps a Result of each.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import redis

from bench import rivals, servers
from bench.figures import show_latencies, show_rounds
from bench.on_redis import settled_per_s
from bench.recording import attempt
from brokers.server_redis import RedisServer

ROUNDS, RUNS, LATENCIES = 3, 4_000, 60
PAUSE_S = 0.05
# Of each of eight agents: 16 at once, as the rivals.
CONCURRENCY = 2
FIELD = (
    rivals.CELERY,
    rivals.DRAMATIQ,
    rivals.TASKIQ,
    rivals.TASKIQ_STREAMS,
    rivals.SAQ,
    rivals.STREAQ,
    rivals.ARQ,
)


def measure() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder) / "redis", environ=os.environ) as server,
    ):
        for rival in FIELD:
            attempt(f"beside {rival.name}", running, rival, server.url)
        for rival in FIELD:
            attempt(f"{rival.name}, from send to start", waiting, rival, server.url)
        attempt("from send to start", waiting_ours, server.url)


def running(rival: rivals.Rival, url: str) -> None:
    """In turns: each Result in the outbox, each Result in the stream, the rival."""
    settled, delivered, theirs = [], [], []
    for _ in range(ROUNDS):
        settled.append(settled_per_s(url, CONCURRENCY, RUNS))
        _empty(url)
        delivered.append(servers.delivered_per_s(url, RUNS, CONCURRENCY))
        _empty(url)
        theirs.append(rivals.tasks_per_s(rival, url, RUNS))
    noun = f"{rival.name} ({rival.settings})"
    show_rounds(f"beside {rival.name}: each Result in the outbox", settled, theirs, noun)
    show_rounds("  and each Result in the stream", delivered, theirs, noun)


def waiting(rival: rivals.Rival, url: str) -> None:
    _empty(url)
    found = rivals.latencies_ms(rival, url, LATENCIES, PAUSE_S)
    show_latencies(f"{rival.name}, from send to start, idle", found)


def waiting_ours(url: str) -> None:
    _empty(url)
    show_latencies("agentpipe, from send to start, idle", servers.latencies_ms_of(url, LATENCIES))


def _empty(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


if __name__ == "__main__":
    measure()
