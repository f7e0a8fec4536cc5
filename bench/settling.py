"""Measures what the counters for Prometheus add to a settlement.

``python -m bench.settling [sqlite | redis | rabbitmq ...]``

Processor time of one process that claims and settles, and of the server, alternately with and
without the counters.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from agentpipe.brokers import open_store
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.core.usage import Tokens
from agentpipe.settings import OutboxLimits, Settings
from bench.figures import show
from bench.fleet import cpu_s
from bench.servers import fresh, pid_of
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Claim
    from brokers.server import Server

AGENTS, TASKS, BATCH, ROUNDS = 8, 4_000, 32, 5
ROOMY = OutboxLimits(10**9, 10**12)
TOKENS = Tokens(1_000, 200, 500)
SERVERS = {"redis": RedisServer, "rabbitmq": RabbitServer}
# The counting functions, and what they return when nothing is counted. Redis still reads and writes
# the numbers once per batch.
COUNTERS: dict[str, dict[str, object]] = {
    "sqlite": {"sqlite.measures.count_settled": None},
    "redis": {"redis.turns.packed_counts": [], "redis.turns.observed_by": (None, None)},
    "rabbitmq": {"rabbitmq.tallies.count_settlement": None},
}


def measure(broker: str = "sqlite") -> None:
    """Print one broker's figure."""
    kind = SERVERS.get(broker)
    with tempfile.TemporaryDirectory() as folder:
        if kind is None:
            _rounds(broker, None)
            return
        with kind(Path(folder) / broker, environ=os.environ) as server:
            _rounds(broker, server)


def _rounds(broker: str, server: Server | None) -> None:
    counted, bare = [], []
    for _ in range(ROUNDS):
        counted.append(_settled_us(server))
        with ExitStack() as patches:
            for name, nothing in COUNTERS[broker].items():
                # A Mock would be slower than what it replaces.
                instead = mock.patch(f"agentpipe.brokers.{name}", _returning(nothing))
                patches.enter_context(instead)
            bare.append(_settled_us(server))
    ratios = sorted(mine / other for mine, other in zip(counted, bare, strict=True))
    spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    whose = "" if server is None else ", the server's included"
    beside = f"of processor time{whose}; {spread} of that without counters"
    show(f"claim and settle one task on {broker}", f"{statistics.median(counted):.1f} us", beside)


def _returning(value: object) -> Callable[..., object]:
    return lambda *_, **__: value


def _settled_us(server: Server | None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/broker.db" if server is None else fresh(server.url)
        with closing(open_store(Settings(broker=url))) as store:
            return _settle_all(store, server) / TASKS * 1e6


def _settle_all(store: Store, server: Server | None) -> float:
    names = [f"bench_{number}" for number in range(AGENTS)]
    store.declare([Queue(name, "bench", TASKS, TASKS) for name in names])
    worker = Worker("w", "host", queues=frozenset(names), slots=BATCH, lease_s=600.0)
    store.join(worker)
    store.offer("bench", [Offer(f"t{it}", b"{}") for it in range(TASKS)], round_robin=True)
    began, left = _spent_s(server), TASKS
    while left:
        claims = store.claim(ClaimRequest(worker, BATCH, ROOMY))
        if not claims:  # Claims are in transit from the server.
            store.wait(1.0)
            continue
        store.settle([_done(claim) for claim in claims])
        store.sync()
        left -= len(claims)
    return _spent_s(server) - began


def _spent_s(server: Server | None) -> float:
    return time.process_time() + (cpu_s(pid_of(server)) if server else 0.0)


def _done(claim: Claim) -> Settlement:
    return Settlement(claim, "complete", b"{}", "ok", usd=0.01, tokens_by_kind=TOKENS)


if __name__ == "__main__":
    for each in sys.argv[1:] or COUNTERS:
        measure(each)
