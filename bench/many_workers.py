"""Measures one Redis with many simulated workers, which claim and settle but run nothing.

``python -m bench.many_workers``, which also makes docs/scale.md. One process makes the requests for
all workers, from several threads; each worker has its own subscription, as in a fleet. Processor
time is the server's.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from agentpipe.brokers import open_store
from agentpipe.brokers.capabilities import SettlesAndClaims
from agentpipe.brokers.records import Claim, ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from agentpipe.worker.times import RENEW_EVERY_S, TICK_S
from bench import scale
from bench.growth import OFFERED, PAYLOAD, RESULT
from bench.machine import machine
from bench.servers import fresh
from bench.settling import ROOMY
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.client import PubSub

    from agentpipe.brokers.base import Store

WORKERS = (1, 10, 100, 1_000)
AGENTS, TASKS, WAITING, AT_ONCE, THREADS = 100, 20_000, 100_000, 8, 8
BEATS, LOOKS, WAKE_UPS, SNAPSHOTS = 4_000, 4_000, 5, 10
# For the connections of the subscriptions, and the other files of the process.
FILES = 4_096


@dataclass(frozen=True, slots=True)
class Crowd:
    """Workers of one store, and their server."""

    store: Store
    workers: list[Worker]
    server: redis.Redis
    ears: dict[str, PubSub]
    held: dict[str, list[Claim]] = field(default_factory=dict)

    def cost_us(self, items: int, work: Callable[[], object]) -> float:
        """Processor time that the server spends per item."""
        before = self._spent_s()
        work()
        return (self._spent_s() - before) * 1e6 / items

    def _spent_s(self) -> float:
        spent: dict[str, float] = self.server.info("cpu")
        return spent["used_cpu_user"] + spent["used_cpu_sys"]

    def of_all(self, number: int, ask: Callable[[Worker], object]) -> None:
        """Make ``number`` requests, by the workers in turn."""
        asking = [self.workers[index % len(self.workers)] for index in range(number)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(ask, asking))

    def _look_for_tasks(self, worker: Worker) -> None:
        self.held[worker.name] = self.store.claim(ClaimRequest(worker, AT_ONCE, ROOMY))

    def begin(self) -> None:
        """Claim the first tasks for each worker."""
        self.of_all(len(self.workers), self._look_for_tasks)

    def offer(self, prefix: str, number: int) -> None:
        for first in range(0, number, OFFERED):
            ids = range(first, min(first + OFFERED, number))
            offers = [Offer(f"{prefix}-{index}", PAYLOAD) for index in ids]
            self.store.offer("crowd", offers, round_robin=True)

    def turns(self, number: int) -> None:
        """Let the workers settle and claim by turns, until ``number`` tasks are done."""
        shares = [self.workers[first::THREADS] for first in range(THREADS)]
        shares = [share for share in shares if share]
        done = partial(self._turns_of, number // len(shares))
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(done, shares))

    def _turns_of(self, number: int, workers: list[Worker]) -> None:
        assert isinstance(self.store, SettlesAndClaims)
        held = self.held
        left, turn = number, 0
        while left > 0:
            worker = workers[turn % len(workers)]
            done = [Settlement(it, "complete", RESULT, "ok", usd=0.01) for it in held[worker.name]]
            request = ClaimRequest(worker, AT_ONCE, ROOMY)
            _, claims = self.store.settle_and_claim(done, request) if done else ((), None)
            held[worker.name] = self.store.claim(request) if claims is None else claims
            left, turn = left - len(done), turn + 1
            if not turn % (OFFERED // AT_ONCE):
                self._deliver(worker)

    def _deliver(self, worker: Worker) -> None:
        taken = self.store.take_outbox(worker, OFFERED, 10**9)
        self.store.drop_outbox(worker, [record.number for record in taken])

    def beat(self) -> None:
        self.of_all(BEATS, self.store.heartbeat)

    def look_in_vain(self) -> None:
        self.of_all(LOOKS, self._look_for_tasks)

    def wake_up(self) -> None:
        """Offer one task to idle workers; those that are woken look for it."""
        for number in range(WAKE_UPS):
            self.store.offer("crowd", [Offer(f"late-{number}", PAYLOAD)], round_robin=True)
            while not (woken := [it for it in self.workers if self._hears(it)]):
                pass
            for worker in woken:
                self._look_for_tasks(worker)

    def _hears(self, worker: Worker) -> bool:
        return self.ears[worker.name].get_message(timeout=0) is not None

    def look(self) -> None:
        for _ in range(SNAPSHOTS):
            self.store.stats()


def measure(server: RedisServer, workers: int) -> dict[str, float]:
    with closing(redis.Redis.from_url(server.url)) as client:
        return _measure(server, client, workers)


def _measure(server: RedisServer, client: redis.Redis, workers: int) -> dict[str, float]:
    url = fresh(server.url)
    with closing(open_store(Settings(broker=url))) as store, _subscribed(url, workers) as ears:
        crowd = Crowd(store, _joined(store, workers), client, ears)
        crowd.offer("t", WAITING)
        crowd.begin()
        began = time.perf_counter()
        task_us = crowd.cost_us(TASKS, partial(_whole_way, crowd))
        per_s = TASKS / (time.perf_counter() - began)
        beat_us = crowd.cost_us(BEATS, crowd.beat)
        snapshot_us = crowd.cost_us(SNAPSHOTS, crowd.look)
    url = fresh(server.url)
    with closing(open_store(Settings(broker=url))) as store, _subscribed(url, workers) as ears:
        idle = Crowd(store, _joined(store, workers), client, ears)
        look_us = idle.cost_us(LOOKS, idle.look_in_vain)
        wake_us = idle.cost_us(WAKE_UPS, idle.wake_up)
    idle_us_per_s = workers * (look_us / TICK_S + beat_us / RENEW_EVERY_S)
    return {
        "a task's whole way, us of the server's processor": task_us,
        "tasks/s that passed here": per_s,
        "a heartbeat, us": beat_us,
        "a look of an idle worker, us": look_us,
        "all idle: looks and heartbeats, % of the server's core": idle_us_per_s / 1e4,
        "all idle: one task comes and is claimed, ms": wake_us / 1e3,
        "snapshot (status, top), ms": snapshot_us / 1e3,
    }


def _whole_way(crowd: Crowd) -> None:
    """Offer and finish the same number of tasks."""
    crowd.offer("more", TASKS)
    crowd.turns(TASKS)


def _joined(store: Store, number: int) -> list[Worker]:
    names = frozenset(f"crowd_{index}" for index in range(AGENTS))
    most = 2 * (WAITING + TASKS)
    store.declare([Queue(name, "crowd", most, most) for name in sorted(names)])
    workers = [
        Worker(f"w{index}", "host", slots=AT_ONCE, queues=names, lease_s=3_600.0)
        for index in range(number)
    ]
    for worker in workers:
        store.join(worker)
    return workers


@contextmanager
def _subscribed(url: str, number: int) -> Iterator[dict[str, PubSub]]:
    """A connection per worker, subscribed to the channels of a real worker."""
    with closing(redis.Redis.from_url(url.partition("?")[0], max_connections=number + 1)) as client:
        base = f"{{{url.partition('prefix=')[2]}}}"
        ears = {f"w{index}": client.pubsub() for index in range(number)}  # type: ignore[no-untyped-call]  # redis-py's
        for name, ear in ears.items():
            channels = (f"{base}:wake", f"{base}:listening", f"{base}:wake:{name}")
            ear.subscribe(*channels)
            for _ in channels:
                ear.get_message(timeout=5)
        told = dict(client.pubsub_numsub(f"{base}:listening"))
        assert list(told.values()) == [number], told
        try:
            yield ears
        finally:
            for ear in ears.values():
                ear.close()


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most), most))
    load = os.getloadavg()[0]
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder) / "redis", environ=os.environ) as server,
    ):
        for number in WORKERS:
            found.append(measure(server, number))
            cells = "; ".join(f"{name}: {value:,.1f}" for name, value in found[-1].items())
            sys.stdout.write(f"{number:,} workers: {cells}\n")
            sys.stdout.flush()
    rows = {name: [each[name] for each in found] for name in found[0]}
    what = f"{AGENTS:,} agents, {WAITING:,} waiting, {AT_ONCE} runs at once each"
    scale.keep_workers(scale.Workers(load, what, machine(), list(WORKERS), rows))
    scale.write()


if __name__ == "__main__":
    main()
