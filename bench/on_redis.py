"""Figures of the Redis store, beside Dramatiq and taskiq on the same server."""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe import Settings
from agentpipe.brokers import open_store
from agentpipe.sending.admission import admit
from bench import asking, crowds, rivals, servers
from bench.figures import (
    bulk_per_s,
    per_s,
    show_latencies,
    show_rounds,
    single_per_s,
    tasks,
)
from bench.fleet import fleet, results_per_s
from bench.recording import attempt
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    import redis

ROUNDS = 3
BULK, SINGLE, RUNS = 20_000, 2_000, 10_000
# Per agent, of eight: one run at a time, and about as many in total as the rivals start.
CONCURRENCIES = (1, 16)


def measure() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder) / "redis", environ=os.environ) as server,
    ):
        attempt("sending", sending, server.url)
        attempt("instant agents", running, server.url)
        attempt("agents waiting", crowds.turns, partial(servers.fresh, server.url))
        attempt("1,000 queues", servers.idle, server, server.url)
        for rival in (rivals.TASKIQ, rivals.DRAMATIQ):
            attempt(f"    {rival.name}'s, one queue", waiting, rival, server.url)
        servers.killed(server.url)
    attempt("why", asking.measure, "redis")


def waiting(rival: rivals.Rival, url: str) -> None:
    found = rivals.latencies_ms(rival, url, 200, 0.05)
    show_latencies(f"    {rival.name}'s, one queue", found)


def sending(url: str) -> None:
    bulk, bare, commands, single, dramatiq = [], [], [], [], []
    for _ in range(ROUNDS):
        bare.append(_bare_per_s(_emptied(url)))
        commands.append(_commands_per_s(_emptied(url)))
        _emptied(url)
        with fleet(8, "Instant", url) as scratch:
            bulk.append(bulk_per_s(scratch, BULK))
            single.append(single_per_s(scratch, SINGLE))
        with rivals.bout(rivals.DRAMATIQ, url) as match:
            dramatiq.append(match.send(SINGLE))
    show_rounds("send_many, 1.5 KB", bulk, bare, "a bare pipelined RPUSH's")
    show_rounds("", bulk, commands, "its own writes without script, bound and known ids,")
    show_rounds("", bulk, dramatiq, "Dramatiq's one by one,")
    show_rounds("send, 1.5 KB, bounded", single, dramatiq, "Dramatiq's unbounded")


def _emptied(url: str) -> redis.Redis:
    import redis

    client = redis.Redis.from_url(url)
    client.flushall()
    return client


def _bare_per_s(client: redis.Redis) -> float:
    """Push the same bytes, a thousand per round trip."""
    payloads = [admit(task).encoded for task in tasks(BULK)]

    def push() -> None:
        for first in range(0, BULK, 1_000):
            pipeline = client.pipeline(transaction=False)
            for payload in payloads[first : first + 1_000]:
                pipeline.rpush("bare", payload)
            pipeline.execute()

    return per_s(BULK, push)


def _commands_per_s(client: redis.Redis) -> float:
    """What an offer writes per task, as plain commands: its script can be no faster."""
    payloads = {each.task_id: each.encoded for each in map(admit, tasks(BULK))}
    ids = list(payloads)

    def write() -> None:
        for first in range(0, BULK, 1_000):
            part = ids[first : first + 1_000]
            numbers = {task_id: first + at for at, task_id in enumerate(part)}
            records: dict[Any, Any] = {each: f"{n:016} 0 0 0 0 0 q" for each, n in numbers.items()}
            pipeline = client.pipeline(transaction=False)
            pipeline.hset("payloads", mapping={each: payloads[each] for each in part})
            pipeline.hset("tasks", mapping=records)
            pipeline.zadd("order", numbers)
            pipeline.zadd("waiting", {f"{n:016}{each}": 0 for each, n in numbers.items()})
            pipeline.execute()

    return per_s(BULK, write)


def running(url: str) -> None:
    """Run two processes each; the rivals' tasks do nothing and leave nothing."""
    taskiq: list[float] = []
    dramatiq: list[float] = []
    settled: dict[int, list[float]] = {concurrency: [] for concurrency in CONCURRENCIES}
    delivered: list[float] = []
    for _ in range(ROUNDS):
        for rival, speeds in ((rivals.TASKIQ, taskiq), (rivals.DRAMATIQ, dramatiq)):
            _emptied(url)
            speeds.append(rivals.tasks_per_s(rival, url, RUNS))
        for concurrency in CONCURRENCIES:
            settled[concurrency].append(settled_per_s(url, concurrency))
        _emptied(url)
        delivered.append(servers.delivered_per_s(url, RUNS, CONCURRENCIES[-1]))
    shown = [(f"instant agents, {8 * each} at once", settled[each]) for each in CONCURRENCIES]
    for label, speeds in (*shown, ("  and each result in the stream", delivered)):
        show_rounds(label, speeds, taskiq, f"taskiq's ({rivals.TASKIQ.settings})")
        show_rounds("", speeds, dramatiq, f"Dramatiq's ({rivals.DRAMATIQ.settings})")


def settled_per_s(url: str, concurrency: int, number: int = RUNS) -> float:
    """Run with the stream away, so every Result stays in the outbox until all are there."""
    _emptied(url)
    with fleet(8, "Instant", url, concurrency) as scratch:
        scratch.environ["AGENTPIPE_OUTBOX_HIGH_WATER"] = str(number + 1)
        scratch.send(tasks(number))
        scratch.stream_file.mkdir()  # No file can be opened there.
        with scratch.working("--processes", "2"):
            _await_outbox(url, number)
        scratch.stream_file.rmdir()
        scratch.run("work", "--processes", "2", "--burst")
        return results_per_s(scratch.results(number))


def _await_outbox(url: str, number: int) -> None:
    store = open_store(Settings(broker=url))
    while (store.stats().outbox or 0) < number:
        time.sleep(0.2)
    store.close()
