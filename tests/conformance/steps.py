"""Steps that the conformance tests of stores share."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import (
    Admission,
    Claim,
    ClaimRequest,
    Offer,
    Queue,
    Settlement,
    Worker,
)
from tests.conformance.pace import PACE
from tests.conformance.processes import (
    claim_and_answer,
)
from tests.stores import ROOMY
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.statistics import QueueDepth, Stats
    from agentpipe.settings import OutboxLimits, Settings
    from tests.stores import AnyStore

PATIENCE_S = 20.0
COOLDOWN_S = 0.1
MEBIBYTE = 1024 * 1024
SPAWN = multiprocessing.get_context("spawn")
ids_needed = pytest.mark.needs("remembers_ids")
depths_needed = pytest.mark.needs("knows_depths")
signals_needed = pytest.mark.needs("signals")
tallies_needed = pytest.mark.needs("keeps_tallies")
shared_cooldowns_needed = pytest.mark.needs("shares_cooldowns")
sources_needed = pytest.mark.needs("follows_sources")
shared_queues_needed = pytest.mark.needs("shares_queues")


def unique(noun: str) -> str:
    return f"{noun}-{uuid.uuid4().hex[:8]}"


def offers(ids: Iterable[Any], **fields: Any) -> list[Offer]:
    return [Offer(str(task_id), f"payload of {task_id}".encode(), **fields) for task_id in ids]


def put(store: AnyStore, queue: str, ids: Iterable[Any], **fields: Any) -> Admission:
    return store.offer(queue, offers(ids, **fields), round_robin=False)


def declared(store: AnyStore, number: int = 1, **limits: Any) -> list[str]:
    """Declare queues without a collection."""
    names = [unique("queue") for _ in range(number)]
    store.declare([Queue(name, **{"concurrency": 100, **limits}) for name in names])
    return names


def collection_of(store: AnyStore, number: int, **limits: Any) -> tuple[str, list[str]]:
    """Declare a collection; return its name and its queues."""
    collection = unique("collection")
    names = [f"{collection}_{index}" for index in range(number)]
    store.declare([Queue(name, collection, **{"concurrency": 100, **limits}) for name in names])
    return collection, names


def joined(store: AnyStore, queues: Iterable[str], lease_s: float = 60.0) -> Worker:
    worker = Worker(unique("worker"), slots=100, lease_s=lease_s, queues=frozenset(queues))
    store.join(worker)
    return worker


def claim(
    store: AnyStore,
    worker: Worker,
    limit: int = 100,
    *,
    outbox: OutboxLimits = ROOMY,
    held: int | None = None,
) -> list[Claim]:
    """Claim tasks, and wait a moment for a server that pushes them."""
    claims: list[Claim] = []
    ends = time.monotonic() + PACE.patience_s
    PACE.settle(store)
    while True:
        found = store.claim(ClaimRequest(worker, limit - len(claims), outbox, held))
        claims += found
        if found:  # Any remaining tasks are on their way too.
            ends = min(ends, time.monotonic() + PACE.more_s)
        if len(claims) >= limit or time.monotonic() >= ends:
            return claims
        PACE.rest()


def ids_of(records: Iterable[Any]) -> list[str]:
    return [record.task_id for record in records]


def claimed_and_left(store: AnyStore, queue: str, number: int = 1) -> tuple[Worker, list[Claim]]:
    """Claims of a worker that is never heard from again."""
    worker = joined(store, [queue], PACE.lease_s)

    def attempt() -> list[Claim]:
        store.join(worker)
        claims = claim(store, worker, number)
        # On a busy machine the lease can end during the claims, and one task be claimed twice.
        return claims if len(set(ids_of(claims))) == len(claims) == number else []

    return worker, wait_until(attempt, PATIENCE_S, "a claim within a short lease")


def claimed_after_lapse(store: AnyStore, worker: Worker, number: int = 1) -> list[Claim]:
    claims: list[Claim] = []

    def attempt() -> bool:
        claims.extend(claim(store, worker))
        return len(claims) >= number

    wait_until(attempt, PATIENCE_S, "the lapsed worker's tasks are claimed again")
    return claims


def settle(store: AnyStore, claimed: Claim, action: Any, **fields: Any) -> bool:
    (done,) = store.settle([Settlement(claimed, action, **fields)])
    return done


def answered(store: AnyStore, claims: Sequence[Claim], result: bytes = b"{}") -> list[bool]:
    return store.settle([Settlement(each, "complete", result, "ok") for each in claims])


def balanced(store: AnyStore) -> Stats:
    """The stats, after checking that their ledger adds up."""
    stats = store.stats()
    before = (stats.waiting, stats.delayed, stats.running)
    parts = (*before, stats.outbox, stats.undeliverable, stats.delivered)
    assert stats.accepted == sum(part or 0 for part in parts), stats
    assert stats.waiting == sum(depth.waiting or 0 for depth in stats.queues)
    assert stats.delayed == sum(depth.delayed or 0 for depth in stats.queues)
    assert stats.running == sum(depth.running or 0 for depth in stats.queues)
    return stats


def depths(store: AnyStore) -> dict[str, QueueDepth]:
    return {depth.queue: depth for depth in balanced(store).queues}


def run_by_four_processes(
    settings: Settings, queues: Iterable[str], total: int
) -> list[tuple[str, float, float, str]]:
    """Claim and answer tasks in four workers, each once; return queue, begin, end and id."""
    group, left, claimed = SPAWN.Barrier(4), SPAWN.Value("i", total), SPAWN.Queue()
    processes = [
        SPAWN.Process(
            target=claim_and_answer,
            args=(settings, frozenset(queues), f"worker-{index}"),
            kwargs={"group": group, "left": left, "claimed": claimed},
            daemon=True,
        )
        for index in range(4)
    ]
    for process in processes:
        process.start()
    held = sorted(entry for _ in processes for entry in claimed.get(timeout=60))
    for process in processes:
        process.join(30)
    assert len({task_id for *_, task_id in held}) == len(held) == total
    return held


def running_and_more(store: AnyStore, running: Iterable[str] = "a") -> tuple[str, Worker, Claim]:
    """Claim the first task of a new queue."""
    (queue,) = declared(store, concurrency=1)
    put(store, queue, running)
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    return queue, worker, claimed


def heard(store: AnyStore, wanted: str) -> None:
    """Fail unless the store reports that the task was cancelled."""

    def comes() -> bool:
        store.wait(0.1)
        return wanted in store.take_cancelled()

    wait_until(comes, PATIENCE_S, f"word of {wanted}")
