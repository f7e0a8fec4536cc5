"""Measures ``agentpipe dead`` with 100,000 dead letters: ``python -m bench.dead``.

Each figure is the time of a whole command, the median of five.
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
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.settings import OutboxLimits, Settings
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Claim

LETTERS, BATCH, ROUNDS = 100_000, 1_000, 5
PAYLOAD = b'{"schema":1,"question":"%s"}' % (b"x" * 1_500)
RESULT = b'{"schema":1,"trace":"%s"}' % (b"x" * 5_000)
COMMANDS = (
    ("bare start", ("--version",)),
    ("first page of 1,000", ("dead", "list", "--json")),
    ("first page of 20", ("dead", "list", "--json", "--limit", "20")),
    ("first 20 of a collection", ("dead", "list", "--json", "--limit", "20", "--collection", "c1")),
    ("first 20 of an error", ("dead", "list", "--json", "--limit", "20", "--error", "503")),
    ("one of an error", ("dead", "list", "--json", "--error", "number 99999")),
    ("grouped", ("dead", "list", "--json", "--group-by", "error")),
)


def measure() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _measure("SQLite", f"sqlite:///{folder}/broker.db")
        with RedisServer(Path(folder) / "redis", environ=os.environ) as server:
            _measure("Redis", server.url)


def _measure(name: str, url: str) -> None:
    with closing(open_store(Settings(broker=url))) as store:
        _fill(store)
    for what, arguments in COMMANDS:
        took_s = [_took_s(url, arguments) for _ in range(ROUNDS)]
        print(f"{name:<8}{what:<28}{statistics.median(took_s) * 1e3:6.0f} ms")  # noqa: T201 - figures


def _fill(store: Store) -> None:
    queues = [Queue(f"c{n}_0", f"c{n}", max_waiting=BATCH, concurrency=BATCH) for n in range(2)]
    store.declare(queues)
    names = frozenset(queue.name for queue in queues)
    worker = Worker("undertaker", slots=BATCH, lease_s=3_600, queues=names)
    store.join(worker)
    request = ClaimRequest(worker, BATCH, OutboxLimits(10**9, 10**12))
    for first in range(0, LETTERS, BATCH):
        queue = queues[first // BATCH % 2].name
        offers = [Offer(f"task-{first + n}", PAYLOAD) for n in range(BATCH)]
        store.offer(queue, offers, round_robin=False)
        store.settle([_burial(claim) for claim in store.claim(request)])
        records = store.take_outbox(worker, BATCH, 10**9)
        store.drop_outbox(worker, [record.number for record in records])
    store.leave(worker)


def _burial(claim: Claim) -> Settlement:
    number = int(claim.task_id.split("-")[1])
    reason = f"HTTPError: {500 + number % 5} for number {number}"
    return Settlement(claim, "bury", RESULT, "infra_error", reason)


def _took_s(url: str, arguments: tuple[str, ...]) -> float:
    environ = {**os.environ, "AGENTPIPE_BROKER": url}
    begun = time.perf_counter()
    command = [sys.executable, "-m", "agentpipe", *arguments]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    measure()
