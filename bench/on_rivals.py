"""Figures of other task runners on Redis, alternating with agentpipe on the same server.

Their tasks do nothing and leave nothing; agentpipe keeps a Result of each.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from bench import rivals, servers
from bench.figures import show_latencies, show_rounds
from bench.on_redis import settled_per_s
from bench.recording import attempt
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, RUNS, LATENCIES = 3, 4_000, 40
PAUSE_S = 0.05
# Per agent, of eight: 16 at once, like the rivals.
CONCURRENCY = 2
OUTBOX = "16 instant agents at once, each Result in the outbox"
STREAM = "16 instant agents at once, each Result in the stream"
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
        running(server.url)
        for rival in FIELD:
            attempt(f"{rival.name}, from send to start", waiting, rival, server.url)
        attempt("agentpipe, from send to start", waiting_ours, server.url)


def running(url: str) -> None:
    """Run all alternately; a runner that fails in a round is left out of that round."""
    speeds: dict[str, dict[int, float]] = {}

    def note(name: str, number: int, speed: Callable[..., float], *arguments: Any) -> None:
        _empty(url)
        speeds.setdefault(name, {})[number] = speed(*arguments)

    for number in range(ROUNDS):
        attempt(OUTBOX, note, OUTBOX, number, settled_per_s, url, CONCURRENCY, RUNS)
        attempt(STREAM, note, STREAM, number, servers.delivered_per_s, url, RUNS, CONCURRENCY)
        for rival in FIELD:
            attempt(rival.name, note, rival.name, number, rivals.tasks_per_s, rival, url, RUNS)
    for label in (OUTBOX, STREAM):
        for rival in FIELD:
            ours, theirs = speeds.get(label, {}), speeds.get(rival.name, {})
            if both := ours.keys() & theirs.keys():
                noun = f"{rival.name} ({rival.settings})"
                show_rounds(label, [ours[it] for it in both], [theirs[it] for it in both], noun)


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
