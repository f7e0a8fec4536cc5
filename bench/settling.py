"""What the counters for Prometheus add to a settlement on SQLite: ``python -m bench.settling``.

Processor time of one process that claims and settles, in turns with and without the counters.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from agentpipe.brokers import open_store
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.core.usage import Tokens
from agentpipe.settings import OutboxLimits, Settings
from bench.figures import show

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Claim

AGENTS, TASKS, BATCH, ROUNDS = 8, 4_000, 32, 5
ROOMY = OutboxLimits(10**9, 10**12)
TOKENS = Tokens(1_000, 200, 500)
COUNTERS = "agentpipe.brokers.sqlite.measures.count_settled"


def measure() -> None:
    counted, bare = [], []
    for _ in range(ROUNDS):
        counted.append(_settled_us())
        with mock.patch(COUNTERS):
            bare.append(_settled_us())
    ratios = sorted(mine / other for mine, other in zip(counted, bare, strict=True))
    spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    beside = f"of processor time; {spread} of that without counters"
    show("claim and settle one task", f"{statistics.median(counted):.1f} us", beside)


def _settled_us() -> float:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/broker.db"
        with closing(open_store(Settings(broker=url))) as store:
            return _settle_all(store) / TASKS * 1e6


def _settle_all(store: Store) -> float:
    names = [f"bench_{number}" for number in range(AGENTS)]
    store.declare([Queue(name, "bench", TASKS, TASKS) for name in names])
    worker = Worker("w", "host", queues=frozenset(names), lease_s=600.0)
    store.join(worker)
    store.offer("bench", [Offer(f"t{it}", b"{}") for it in range(TASKS)], round_robin=True)
    began = time.process_time()
    while claims := store.claim(ClaimRequest(worker, BATCH, ROOMY)):
        store.settle([_done(claim) for claim in claims])
        store.sync()
    return time.process_time() - began


def _done(claim: Claim) -> Settlement:
    return Settlement(claim, "complete", b"{}", "ok", usd=0.01, tokens_by_kind=TOKENS)


if __name__ == "__main__":
    measure()
