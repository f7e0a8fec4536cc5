"""Leases: tasks return from workers that die, leave or stop their heartbeats."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import BuriesWorkers
from tests.conformance.pace import PACE
from tests.conformance.steps import (
    MEBIBYTE,
    balanced,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    declared,
    depths,
    depths_needed,
    ids_of,
    joined,
    put,
    settle,
    shared_queues_needed,
    signals_needed,
)

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def test_a_lapsed_workers_task_is_anothers_with_one_crash_more(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    _, (lost,) = claimed_and_left(store, queue)
    worker = joined(store, [queue])
    (found,) = claimed_after_lapse(store, worker)
    assert (found.task_id, found.crashes - lost.crashes, found.failures) == ("a", 1, 0)
    assert (found.worker, found.payload) == (worker.name, lost.payload)
    assert found.number != lost.number


def test_each_lapse_counts_one_crash(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    crashes = []
    for _ in range(3):
        _, (claimed,) = claimed_and_left(store, queue)
        crashes.append(claimed.crashes)
    assert crashes == sorted(set(crashes))
    assert claimed_after_lapse(store, joined(store, [queue]))[0].crashes == crashes[-1] + 1


def test_a_worker_that_says_what_it_holds_leaves_the_others_their_share(store: AnyStore) -> None:
    queues = declared(store, 4, concurrency=1)
    for queue in queues:
        put(store, queue, [queue])
    one, other = (joined(store, queues) for _ in range(2))
    assert len(claim(store, one, held=0)) == 2
    assert claim(store, one, held=2) == []
    assert len(claim(store, other, held=0)) == 2
    store.leave(other)
    assert len(claim(store, one, held=2)) == 2


@shared_queues_needed
def test_tasks_in_their_last_chance_do_not_share_a_worker(store: AnyStore) -> None:
    one, other = declared(store, 2, max_crashes=2)
    put(store, one, ["killer", "beside it"])
    claimed_and_left(store, one, 2)
    worker, second = (joined(store, [one, other]) for _ in range(2))
    (alone,) = claimed_after_lapse(store, worker)
    put(store, other, ["fresh"])
    assert ids_of(claim(store, worker)) == ["fresh"]
    (beside,) = claim(store, second)
    assert {alone.task_id, beside.task_id} == {"killer", "beside it"}
    settle(store, beside, "release")
    settle(store, alone, "complete", result=b"{}", outcome="ok")
    assert ids_of(claim(store, worker)) == [beside.task_id]


def test_after_a_lapse_the_old_worker_neither_extends_nor_settles(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    old, (lost,) = claimed_and_left(store, queue)
    (found,) = claimed_after_lapse(store, joined(store, [queue]))
    assert store.heartbeat(old) is False
    for action in ("complete", "bury", "retry", "release"):
        assert settle(store, lost, action, result=b"late", outcome="ok") is False
    assert store.take_outbox(joined(store, []), 10, MEBIBYTE) == []
    assert not store.stats().dead
    assert settle(store, found, "complete", result=b"{}", outcome="ok") is True


def test_an_old_claim_is_lost_though_its_worker_came_back_and_claimed_again(
    store: AnyStore,
) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    old, (lost,) = claimed_and_left(store, queue)
    other = joined(store, [queue])
    settle(store, claimed_after_lapse(store, other)[0], "release")
    store.leave(other)
    again = replace(old, lease_s=60.0)
    store.join(again)
    (found,) = claimed_after_lapse(store, again)
    assert settle(store, lost, "complete", result=b"late", outcome="ok") is False
    assert settle(store, found, "complete", result=b"{}", outcome="ok") is True


def test_a_worker_that_extends_keeps_its_tasks(store: AnyStore, open_another: OpenStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    lease_s = max(0.6, PACE.lease_s)  # A busy machine can delay the heartbeat.
    keeper = joined(store, [queue], 2.5 * lease_s)
    assert store.heartbeat(keeper)
    (claimed,) = claim(store, keeper, 1)
    second, ends = open_another(), time.monotonic() + 4 * lease_s
    other = joined(second, [queue])
    while time.monotonic() < ends:
        assert store.heartbeat(keeper)
        assert claim(second, other) == []
        PACE.rest()
    assert settle(store, claimed, "complete", result=b"{}", outcome="ok")


@shared_queues_needed
def test_a_worker_holds_one_task_in_its_last_chance_at_a_time(store: AnyStore) -> None:
    (queue,) = declared(store, max_crashes=2)
    put(store, queue, "ab")
    claimed_and_left(store, queue, 2)
    one, two = joined(store, [queue]), joined(store, [queue])
    (first,) = claimed_after_lapse(store, one)
    assert first.crashes == 1
    put(store, queue, "c")
    assert ids_of(claim(store, one)) == ["c"]
    assert claim(store, one) == []
    (second,) = claim(store, two)
    assert {first.task_id, second.task_id} == {"a", "b"}
    assert settle(store, second, "release")
    assert claim(store, one) == []
    assert settle(store, first, "complete", result=b"{}", outcome="ok")
    assert ids_of(claim(store, one)) == [second.task_id]


@signals_needed
@shared_queues_needed
def test_a_last_chance_that_waits_for_another_keeps_nobody_busy(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue, other) = declared(store, 2, max_crashes=2)
    put(store, queue, "ab")
    claimed_and_left(store, queue, 2)
    worker = joined(store, [queue, other])
    assert len(claimed_after_lapse(store, worker)) == 1
    listener = open_another()
    for waiter in (listener, store):
        waiter.wait(0)
    before = [claim(store, worker, 1) for _ in range(20)]
    assert before == [[]] * 20
    put(store, other, "c")
    assert ids_of(claim(store, worker, 1)) == ["c"]  # Although an unclaimable queue is first.
    while _is_woken(listener):
        pass
    assert claim(store, worker, 1) == []
    assert not _is_woken(listener), "a claim that gave nothing woke others"


def _is_woken(listener: AnyStore) -> bool:
    begun = time.monotonic()
    listener.wait(0.3)
    return time.monotonic() - begun < 0.2


@depths_needed
def test_the_ledger_holds_over_a_lapse(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    claimed_and_left(store, queue, 2)
    assert balanced(store).accepted == 3
    claimed_after_lapse(store, joined(store, [queue]), 3)
    assert depths(store)[queue].running == 3


def test_a_worker_that_leaves_gives_back_uncounted(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    (first, _) = claim(store, worker)
    settle(store, first, "retry")
    (first,) = claimed_after_lapse(store, worker)
    assert store.leave(worker) == 2
    assert store.leave(worker) == 0
    again = {each.task_id: each for each in claim(store, joined(store, [queue]))}
    assert (again["a"].failures, again["a"].crashes) == (1, 0)
    assert (again["b"].failures, again["b"].crashes) == (0, 0)
    assert settle(store, first, "complete", result=b"{}", outcome="ok") is False


def test_a_worker_that_is_buried_gives_back_as_if_its_lease_were_over(store: AnyStore) -> None:
    if not isinstance(store, BuriesWorkers):
        pytest.skip("the end of its connection tells this store")
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    claims = {each.task_id: each for each in claim(store, worker)}
    store.bury(worker, ["a"])
    store.bury(worker, ["a"])
    assert settle(store, claims["a"], "complete", result=b"{}", outcome="ok") is False
    assert store.heartbeat(worker) is False
    again = {each.task_id: each for each in claim(store, joined(store, [queue]))}
    assert {name: each.crashes for name, each in again.items()} == {"a": 1, "b": 0}


def test_a_worker_that_left_claims_nothing_and_does_not_extend(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    store.leave(worker)
    assert store.heartbeat(worker) is False
    assert claim(store, worker) == []
