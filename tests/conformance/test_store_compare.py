"""ComparesClaims: a worker and the store reconcile the worker's claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import ComparesClaims, Comparison
from tests.conformance.steps import (
    MEBIBYTE,
    answered,
    balanced,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    declared,
    depths_needed,
    ids_of,
    joined,
    put,
    settle,
    shared_queues_needed,
    unique,
)

if TYPE_CHECKING:
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=ComparesClaims)


def test_nothing_changes_where_both_agree(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    claims = claim(store, worker, 3)
    answered(store, claims[:1])
    records = store.take_outbox(worker, 10, MEBIBYTE)
    keys, numbers = [each.key for each in claims[1:]], [each.number for each in records]
    assert store.compare(worker, keys, numbers) == Comparison()
    assert answered(store, claims[1:]) == [True, True]
    assert not store.in_doubt


def test_what_the_worker_does_not_hold_waits_again_uncounted(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=2)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    kept, stray = claim(store, worker, 2)
    assert store.compare(worker, [kept.key], []) == Comparison(returned=1)
    (again,) = claim(store, worker, 2)
    assert (again.task_id, again.crashes, again.failures) == (stray.task_id, 0, 0)
    assert settle(store, stray, "complete", result=b"late", outcome="ok") is False
    assert answered(store, [kept, again]) == [True, True]


def test_a_claim_that_the_store_does_not_know_is_lost(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    first, second = claim(store, worker, 2)
    settle(store, first, "release")
    found = store.compare(worker, [first.key, second.key, ("none", 7)], [])
    assert found == Comparison(frozenset([first.key, ("none", 7)]))
    assert settle(store, second, "complete", result=b"{}", outcome="ok")


def test_a_newer_claim_of_the_same_task_is_another_claim(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (old,) = claim(store, worker, 1)
    settle(store, old, "release")
    (new,) = claim(store, worker, 1)
    assert store.compare(worker, [old.key, new.key], []) == Comparison(frozenset([old.key]))
    assert store.compare(worker, [new.key], []) == Comparison()


def test_results_that_are_not_forwarded_are_lent_again(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 3))
    first, *others = store.take_outbox(worker, 10, MEBIBYTE)
    assert store.compare(worker, [], None) == Comparison()
    assert store.take_outbox(worker, 10, MEBIBYTE) == []
    assert store.compare(worker, [], [first.number]) == Comparison(freed=2)
    again = store.take_outbox(worker, 10, MEBIBYTE)
    assert sorted(ids_of(again)) == sorted(ids_of(others))
    store.drop_outbox(worker, [each.number for each in (first, *again)])


@depths_needed
def test_the_ledger_holds_over_a_comparison(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abcd")
    worker = joined(store, [queue])
    claims = claim(store, worker, 3)
    answered(store, claims[:1])
    store.take_outbox(worker, 10, MEBIBYTE)
    store.compare(worker, [claims[1].key], [])
    stats = balanced(store)
    assert (stats.waiting, stats.running, stats.outbox) == (2, 1, 1)


@shared_queues_needed
def test_a_last_chance_that_is_put_back_makes_room_for_the_next(store: AnyStore) -> None:
    (queue,) = declared(store, max_crashes=2)
    put(store, queue, "ab")
    claimed_and_left(store, queue, 2)
    worker = joined(store, [queue])
    (first,) = claimed_after_lapse(store, worker)
    assert claim(store, worker) == []
    assert store.compare(worker, [], []).returned == 1
    (again,) = claim(store, worker, 1)
    assert again.crashes == first.crashes == 1


def test_a_worker_without_a_lease_compares_nothing(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    store.leave(worker)
    assert store.compare(worker, [claimed.key, (unique("task"), 1)], []) == Comparison()
