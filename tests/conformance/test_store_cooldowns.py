"""Cooldowns: a queue from which nobody claims for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.conformance.steps import (
    COOLDOWN_S,
    MEBIBYTE,
    answered,
    claim,
    claimed_after_lapse,
    collection_of,
    declared,
    depths,
    depths_needed,
    ids_of,
    joined,
    put,
    settle,
)

if TYPE_CHECKING:
    from agentpipe.brokers.records import (
        Claim,
        Worker,
    )
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def cooled_after_a_claim(store: AnyStore, queue: str, delay_s: float) -> tuple[Worker, Claim]:
    """A worker whose run of the queue's first task was told to come back later."""
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "cooldown", delay_s=delay_s)
    return worker, claimed


def test_a_cooldown_puts_back_uncounted_and_the_queue_waits_for_its_end(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=1)
    put(store, queue, "ab")
    due = time.monotonic() + 2 * COOLDOWN_S
    worker, _ = cooled_after_a_claim(store, queue, 2 * COOLDOWN_S)
    (again,) = claimed_after_lapse(store, worker)
    assert time.monotonic() >= due - 0.01
    assert (again.task_id, again.failures, again.crashes) == ("a", 0, 0)
    answered(store, [again])
    assert ids_of(claimed_after_lapse(store, worker)) == ["b"]


@depths_needed
def test_a_held_queues_tasks_count_as_waiting(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    assert depths(store)[queue].cooldown_s == 0
    worker, _ = cooled_after_a_claim(store, queue, 60)
    depth = depths(store)[queue]
    assert (depth.waiting, depth.delayed, depth.running) == (2, 0, 0)
    assert 50 < (depth.cooldown_s or 0) <= 60
    assert claim(store, worker) == []


def test_a_cooldown_is_told_as_far_as_it_is_known(store: AnyStore) -> None:
    held, other = declared(store, 2)
    put(store, held, "a")
    cooled_after_a_claim(store, held, 60)
    seen = {depth.queue: depth.cooldown_s for depth in store.stats().queues}
    assert 50 < (seen[held] or 0) <= 60
    assert seen[other] == 0


def test_a_cooldown_holds_for_all_workers_and_only_its_queue(
    store: AnyStore, open_another: OpenStore
) -> None:
    held, sibling = collection_of(store, 2)[1]
    put(store, held, "ab")
    cooled_after_a_claim(store, held, 60)
    put(store, held, "c")
    put(store, sibling, "d")
    other = open_another()
    assert claim(other, joined(other, [held])) == []
    assert ids_of(claim(store, joined(store, [held, sibling]))) == ["d"]


def test_a_cooldown_outlives_the_worker_that_asked_for_it(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    other = open_another()
    second = joined(other, [queue])
    first = joined(store, [queue])
    claims = claim(store, first, 1) or claim(other, second, 1)
    holder, heir = (store, first), (other, second)
    if claims[0].worker == second.name:
        holder, heir = heir, holder
    assert settle(holder[0], claims[0], "cooldown", delay_s=60)
    holder[0].leave(holder[1])
    assert claim(heir[0], heir[1]) == []


def test_the_longest_of_several_holds_counts(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    first, second = claim(store, worker, 2)
    assert settle(store, first, "cooldown", delay_s=60)
    assert settle(store, second, "cooldown", delay_s=0.01)
    assert claim(store, worker) == []


def test_a_run_that_goes_on_during_a_cooldown_is_settled_as_usual(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    first, second = claim(store, worker, 2)
    assert settle(store, first, "cooldown", delay_s=60)
    assert answered(store, [second]) == [True]
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["b"]


def test_the_cooldown_of_a_lost_claim_holds_nothing(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    answered(store, [claimed])
    assert settle(store, claimed, "cooldown", delay_s=60) is False
    put(store, queue, "b")
    assert ids_of(claim(store, worker)) == ["b"]
