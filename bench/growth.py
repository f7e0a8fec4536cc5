"""Measures how the cost of each operation grows with waiting tasks and with agents.

``python -m bench.growth [sqlite | redis | rabbitmq ...]``, which also makes docs/scale.md. One
process does everything. Processor time is that of this process: a server's work shows only in the
elapsed time.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agentpipe.brokers import open_store
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from bench import scale
from bench.machine import machine
from bench.servers import fresh
from bench.settling import ROOMY
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.base import Store
    from brokers.server import Server

Found = TypeVar("Found")
WAITING, AGENTS = (1_000, 10_000, 100_000, 1_000_000), (100, 1_000, 10_000, 100_000)
# The fixed number of agents or tasks while the other grows.
FEW_AGENTS, FEW_TASKS = 100, 100_000
# Own agents and waiting tasks of one worker, while other workers serve many more agents.
OWN_AGENTS, OWN_TASKS = 200, 10_000
FILL, OFFERED, CLAIMED, ROUNDS = 5_000, 100, 32, 31
DELIVERED_WITHIN_S, LOOK_EVERY_S = 1.0, 0.1
PAYLOAD, RESULT = b'{"schema":1,"question":"%s"}' % (b"q" * 500), b"r" * 1_000
# RabbitMQ has three queues per agent: creating those of 10,000 takes many minutes here.
FEWER = {"rabbitmq": (3, 2)}
SERVERS: dict[str, type[Server]] = {"redis": RedisServer, "rabbitmq": RabbitServer}


@dataclass(frozen=True, slots=True)
class Costs:
    """Durations and processor times of each operation, in microseconds per item."""

    passed: dict[str, list[float]] = field(default_factory=dict)
    used: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, items: int, operation: Callable[[], Found]) -> Found:
        began, cpu = time.perf_counter(), time.process_time()
        found = operation()
        if found == []:  # A claim before anything was delivered.
            return found
        self.used.setdefault(name, []).append((time.process_time() - cpu) * 1e6 / items)
        self.passed.setdefault(name, []).append((time.perf_counter() - began) * 1e6 / items)
        return found


def measure(broker: str) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kind = SERVERS.get(broker)
        server = stack.enter_context(kind(folder / broker, environ=os.environ)) if kind else None

        def costs(agents: int, tasks: int, others: int = 0) -> Costs:
            url = fresh(server.url) if server else f"sqlite:///{folder}/{uuid.uuid4().hex}.db"
            with closing(open_store(Settings(broker=url))) as store:
                return _costs(store, agents, tasks, others)

        load = os.getloadavg()[0]
        tasks, crowds = FEWER.get(broker, (None, None))
        waiting, agents = WAITING[:tasks], AGENTS[:crowds]
        tables = [
            _show("waiting", waiting, [costs(FEW_AGENTS, number) for number in waiting]),
            _show("agents", agents, [costs(number, FEW_TASKS) for number in agents]),
            _show("of others", AGENTS, [costs(OWN_AGENTS, OWN_TASKS, each) for each in AGENTS]),
        ]
    few = f"{FEW_AGENTS:,} agents, {FEW_TASKS:,} waiting"
    scale.keep(scale.Growth(broker, load, few, machine(), tables))


def _costs(store: Store, agents: int, tasks: int, others: int) -> Costs:
    """Measure the operations; agents of ``others`` are declared and have no tasks."""
    costs = Costs()
    store.declare([Queue(f"other_{number}", "other", 100, 1) for number in range(others)])
    names = [f"crowd_{number}" for number in range(agents)]
    queues = [Queue(name, "crowd", 2 * tasks, CLAIMED) for name in names]
    costs.time("declare, for each agent", agents, partial(store.declare, queues))
    worker = Worker("w", "host", slots=CLAIMED, queues=frozenset(names), lease_s=3_600.0)
    store.join(worker)
    _await_agents(store)
    for first in range(0, tasks, FILL):
        store.offer("crowd", _offers("t", first, min(FILL, tasks - first)), round_robin=True)
    for turn in range(ROUNDS):
        _turn(store, worker, costs, turn)
        if not (turn % 10 or others):
            costs.time("snapshot (status, top)", 1, store.stats)
    return costs


def _await_agents(store: Store) -> None:
    """Wait for RabbitMQ's workers, which take over their agents one after another."""
    joined = getattr(store, "_workers", {}).get("w")
    while joined is not None and not joined._balanced:  # noqa: SLF001 - no store promises it
        time.sleep(LOOK_EVERY_S)


def _turn(store: Store, worker: Worker, costs: Costs, turn: int) -> None:
    """Do each operation once; the number of waiting tasks stays the same."""
    more = _offers(f"more{turn}", 0, OFFERED)
    costs.time("offer", OFFERED, partial(store.offer, "crowd", more, round_robin=True))
    left = OFFERED
    while left > 0:
        request = ClaimRequest(worker, min(CLAIMED, left), ROOMY)
        claims = costs.time("claim", request.limit, partial(store.claim, request))
        if not claims:
            store.wait(DELIVERED_WITHIN_S)
            continue
        done = [Settlement(each, "complete", RESULT, "ok", usd=0.01) for each in claims]
        costs.time("settle", len(done), partial(store.settle, done))
        left -= len(claims)
    store.sync()
    taking = partial(store.take_outbox, worker, OFFERED, 10**9)
    taken = costs.time("take from the outbox", OFFERED, taking)
    numbers = [record.number for record in taken]
    costs.time("drop from the outbox", OFFERED, partial(store.drop_outbox, worker, numbers))
    costs.time("heartbeat", 1, partial(store.heartbeat, worker))


def _offers(prefix: str, first: int, number: int) -> list[Offer]:
    return [Offer(f"{prefix}-{index}", PAYLOAD) for index in range(first, first + number)]


def _show(noun: str, numbers: Sequence[int], costs: Sequence[Costs]) -> scale.Table:
    """Show medians of elapsed time and processor time, in microseconds."""
    heads = "".join(f" {number:>17,}" for number in numbers)
    sys.stdout.write(f"\n{f'us, by {noun}':<26}{heads}   last / first (processor)\n")
    medians: dict[str, list[tuple[float, float]]] = {}
    for name in costs[0].passed:
        passed = [statistics.median(each.passed[name]) for each in costs]
        used = [statistics.median(each.used[name]) for each in costs]
        pairs = medians[name] = list(zip(passed, used, strict=True))
        cells = "".join(f" {each:>9,.0f} ({cpu:>5,.0f})" for each, cpu in pairs)
        grown = f"{passed[-1] / passed[0]:.2f} ({used[-1] / used[0]:.2f})"
        sys.stdout.write(f"{name:<26}{cells}   {grown}\n")
    sys.stdout.flush()
    return scale.Table(noun, list(numbers), medians)


def main() -> None:
    for name in sys.argv[1:] or ("sqlite", *SERVERS):
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        sys.stdout.write(f"\n{name}, load {load}; processor time in brackets\n")
        measure(name)
        scale.write()


if __name__ == "__main__":
    main()
