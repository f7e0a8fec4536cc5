"""Cooldowns: a queue from which no worker claims for some time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import Queue
from tests.conformance.steps import (
    COOLDOWN_S,
    MEBIBYTE,
    PATIENCE_S,
    answered,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    collection_of,
    declared,
    depths,
    depths_needed,
    ids_of,
    joined,
    put,
    settle,
    shared_cooldowns_needed,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.records import (
        Claim,
        Worker,
    )
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def cooled_after_a_claim(store: AnyStore, queue: str, delay_s: float) -> tuple[Worker, Claim]:
    """A worker whose run of the queue's first task ended in a cooldown."""
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
    (claimed,) = claim(store, worker, 1)
    answered(store, [claimed])
    assert settle(store, claimed, "cooldown", delay_s=60) is False
    put(store, queue, "b")
    assert ids_of(claim(store, worker)) == ["b"]


# Cooldowns of a credential, and the time that a task has waited in cooldowns.


def cooling(store: AnyStore) -> dict[str, float]:
    """The remaining cooldown in seconds, by queue."""
    return {depth.queue: depth.cooldown_s or 0.0 for depth in store.stats().queues}


@shared_cooldowns_needed
def test_a_cooldown_covers_the_queues_that_it_names(store: AnyStore) -> None:
    held, sibling, other = collection_of(store, 3)[1]
    for queue in (held, sibling, other):
        put(store, queue, [f"{queue} a", f"{queue} b"])
    worker = joined(store, [held])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "cooldown", delay_s=60, cooldown_queues=(held, sibling))
    left_s = cooling(store)
    assert [50 < left_s[queue] <= 60 for queue in (held, sibling, other)] == [True, True, False]
    claims = claim(store, joined(store, [held, sibling, other]))
    assert ids_of(claims) == [f"{other} a", f"{other} b"]


@shared_cooldowns_needed
def test_a_cooldown_covers_queues_that_another_worker_serves(
    store: AnyStore, open_another: OpenStore
) -> None:
    held, sibling = collection_of(store, 2)[1]
    put(store, held, "ab")
    other = open_another()
    first, second = joined(store, [held]), joined(other, [sibling])
    (claimed,) = claim(store, first, 1)
    put(store, sibling, "cd")
    (begun,) = claim(other, second, 1)  # Where the server pushes tasks, ``d`` is delivered too.
    assert settle(store, claimed, "cooldown", delay_s=60, cooldown_queues=(held, sibling))
    wait_until(lambda: cooling(other)[sibling] > 0, PATIENCE_S, "the other worker has heard")
    assert claim(other, second) == []
    assert answered(other, [begun]) == [True]
    assert claim(other, second) == []
    assert sum(depth.waiting or 0 for depth in store.stats().queues) == 3


@shared_cooldowns_needed
def test_covered_queues_are_claimed_from_again_at_its_end(store: AnyStore) -> None:
    held, sibling = collection_of(store, 2)[1]
    put(store, held, "a")
    worker = joined(store, [held, sibling])
    (claimed,) = claim(store, worker, 1)
    put(store, sibling, "b")
    due = time.monotonic() + 2 * COOLDOWN_S
    names = (held, sibling, "queue-that-is-not-declared")
    assert settle(store, claimed, "cooldown", delay_s=2 * COOLDOWN_S, cooldown_queues=names)
    again = claimed_after_lapse(store, worker, 2)
    assert time.monotonic() >= due - 0.01
    assert sorted(ids_of(again)) == ["a", "b"]


@shared_cooldowns_needed
def test_a_cooldown_shortens_none_of_another_queue(store: AnyStore) -> None:
    held, sibling = collection_of(store, 2)[1]
    put(store, held, "ab")
    worker = joined(store, [held])
    first, second = claim(store, worker, 2)
    assert settle(store, first, "cooldown", delay_s=60, cooldown_queues=(sibling,))
    assert settle(store, second, "cooldown", delay_s=0.01, cooldown_queues=(sibling,))
    assert all(left_s > 50 for left_s in cooling(store).values())


@shared_cooldowns_needed
def test_a_lost_claim_covers_nothing(store: AnyStore) -> None:
    held, sibling = collection_of(store, 2)[1]
    put(store, held, "a")
    worker = joined(store, [held])
    (claimed,) = claim(store, worker, 1)
    answered(store, [claimed])
    assert not settle(store, claimed, "cooldown", delay_s=60, cooldown_queues=(sibling,))
    assert set(cooling(store).values()) == {0.0}


@shared_cooldowns_needed
def test_a_cooldown_covers_queues_of_a_concurrency_group(store: AnyStore) -> None:
    collection = unique("collection")
    names = [f"{collection}_{index}" for index in range(2)]
    store.declare([Queue(name, collection, 100, 100, 3, "group", 10) for name in names])
    put(store, names[0], "a")
    worker = joined(store, names)
    (claimed,) = claim(store, worker, 1)
    put(store, names[1], "b")
    settle(store, claimed, "cooldown", delay_s=2 * COOLDOWN_S, cooldown_queues=tuple(names))
    assert sorted(ids_of(claimed_after_lapse(store, worker, 2))) == ["a", "b"]


@shared_cooldowns_needed
def test_a_task_counts_how_long_it_has_waited_in_cooldowns(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert claimed.cooled_s == 0
    for rounds in (1, 2):
        assert settle(store, claimed, "cooldown", delay_s=COOLDOWN_S)
        (claimed,) = claimed_after_lapse(store, worker)
        assert claimed.cooled_s == pytest.approx(rounds * COOLDOWN_S)
    settle(store, claimed, "release")
    store.leave(worker)
    other = open_another()
    (claimed,) = claim(other, joined(other, [queue]))
    assert claimed.cooled_s == pytest.approx(2 * COOLDOWN_S)
    answered(other, [claimed])


@shared_cooldowns_needed
def test_cooldowns_are_counted_over_a_crash_and_a_retry(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    settle(store, claimed, "cooldown", delay_s=COOLDOWN_S)
    (claimed,) = claimed_after_lapse(store, worker)
    settle(store, claimed, "retry", delay_s=0.01)
    (claimed,) = claimed_after_lapse(store, worker)
    settle(store, claimed, "release")
    store.leave(worker)
    _, (left,) = claimed_and_left(store, queue)
    (again,) = claimed_after_lapse(store, joined(store, [queue]))
    assert (again.failures, again.crashes) == (1, left.crashes + 1)
    assert again.cooled_s == pytest.approx(COOLDOWN_S)
