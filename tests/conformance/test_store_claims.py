"""Claims: which worker gets which task, and how many at a time."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import (
    Worker,
)
from agentpipe.config.values import MAX_NUMBER
from agentpipe.settings import OutboxLimits
from tests.conformance.steps import (
    MEBIBYTE,
    answered,
    claim,
    declared,
    ids_of,
    joined,
    put,
    run_by_four_processes,
    settle,
    shared_queues_needed,
    unique,
)

if TYPE_CHECKING:
    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def test_a_claim_tells_all_about_the_task(store: AnyStore) -> None:
    (queue,) = declared(store)
    before = time.time()
    put(store, queue, ["a"])
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert (claimed.task_id, claimed.queue, claimed.payload) == ("a", queue, b"payload of a")
    assert (claimed.worker, claimed.failures, claimed.crashes) == (worker.name, 0, 0)
    assert before - 0.01 <= claimed.submitted_at <= time.time() + 0.01


def test_a_claim_is_never_larger_than_asked_for(store: AnyStore) -> None:
    names = declared(store, 3)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(5)])
    worker = joined(store, names)
    assert [len(claim(store, worker, limit)) for limit in (1, 2, 7, 100)] == [1, 2, 7, 5]


def test_a_concurrency_may_be_as_large_as_a_collection_may_say(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=MAX_NUMBER)
    put(store, queue, range(5))
    worker = joined(store, [queue])
    assert len(claim(store, worker, 5)) == 5


@shared_queues_needed
def test_a_task_is_claimed_by_one_worker(store: AnyStore, open_another: OpenStore) -> None:
    (queue,) = declared(store, max_waiting=200)
    put(store, queue, range(100))
    connections = [store, open_another(), open_another()]
    workers = [joined(store, [queue]) for _ in connections]
    found: Counter[str] = Counter()
    for turn in range(30):
        at = turn % 3
        found.update(ids_of(claim(connections[at], workers[at], 4)))
    assert found == {str(index): 1 for index in range(100)}


@shared_queues_needed
def test_claims_never_exceed_the_concurrency_over_all_workers(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store, concurrency=3)
    put(store, queue, range(10))
    other = open_another()
    one, two = joined(store, [queue]), joined(store, [queue])
    claims = claim(store, one, 2) + claim(other, two, 2)
    assert len(claims) == 3
    assert claim(store, one) == []
    settle(store, claims[0], "retry", delay_s=60)
    settle(store, claims[1], "release")
    settle(store, claims[2], "complete", result=b"{}", outcome="ok")
    assert len(claim(store, one, 2) + claim(other, two, 2)) == 3


@pytest.mark.race
def test_one_run_at_a_time_over_four_processes(store: AnyStore, store_settings: Settings) -> None:
    queues = declared(store, 2, concurrency=1)
    for queue in queues:
        put(store, queue, [f"{queue}-{index}" for index in range(40)])
    held = run_by_four_processes(store_settings, queues, 80)
    for (queue, _, ended, _), (next_queue, begun, _, _) in pairwise(held):
        assert queue != next_queue or ended <= begun


def test_a_claim_is_fair_over_queues(store: AnyStore) -> None:
    names = declared(store, 4)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(20)])
    worker = joined(store, names)
    shares = Counter(each.queue for each in claim(store, worker, 20))
    assert shares == dict.fromkeys(names, 5)
    singles = Counter(claim(store, worker, 1)[0].queue for _ in range(20))
    assert singles == dict.fromkeys(names, 5)


def test_a_busy_queue_does_not_starve_a_small_one(store: AnyStore) -> None:
    busy, small = declared(store, 2)
    put(store, busy, range(90))
    worker = joined(store, [busy, small])
    claim(store, worker, 5)
    put(store, small, ["small"])
    assert "small" in ids_of(claim(store, worker, 2))


def test_only_served_queues_are_claimed(store: AnyStore) -> None:
    served, other = declared(store, 2)
    put(store, served, ["mine"])
    put(store, other, ["theirs"])
    assert ids_of(claim(store, joined(store, [served]))) == ["mine"]
    assert claim(store, joined(store, [])) == []


def test_a_worker_that_never_joined_claims_nothing(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    assert claim(store, Worker(unique("stranger"), queues=frozenset([queue]))) == []


def test_nothing_is_claimed_above_the_high_water_mark_of_records(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abcd")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 2))
    assert claim(store, worker, outbox=OutboxLimits(2, 10**9)) == []
    assert len(claim(store, worker, 1, outbox=OutboxLimits(3, 10**9))) == 1
    (first, _) = store.take_outbox(worker, 10, MEBIBYTE)
    assert claim(store, worker, outbox=OutboxLimits(2, 10**9)) == []
    store.drop_outbox(worker, [first.number])
    assert len(claim(store, worker, 1, outbox=OutboxLimits(2, 10**9))) == 1


def test_nothing_is_claimed_above_the_high_water_mark_of_bytes(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 1), b"x" * 1000)
    assert claim(store, worker, outbox=OutboxLimits(10**6, 1000)) == []
    assert len(claim(store, worker, 1, outbox=OutboxLimits(10**6, 1001))) == 1
