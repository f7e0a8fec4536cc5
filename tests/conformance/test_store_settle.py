"""Settlements: how a claim ends."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import (
    Claim,
    Settlement,
)
from tests.conformance.steps import (
    MEBIBYTE,
    answered,
    balanced,
    claim,
    claimed_after_lapse,
    declared,
    depths_needed,
    ids_of,
    joined,
    put,
    settle,
    shared_queues_needed,
)

if TYPE_CHECKING:
    from tests.stores import AnyStore


@depths_needed
def test_an_answer_goes_to_the_outbox_and_the_task_is_gone(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "complete", result=b'{"x":1}', outcome="ok")
    stats = balanced(store)
    assert (stats.accepted, stats.running, stats.outbox, stats.outbox_bytes) == (1, 0, 1, 7)
    assert stats.outcomes == {"ok": 1}
    (record,) = store.take_outbox(worker, 10, MEBIBYTE)
    assert (record.task_id, record.payload) == ("a", b'{"x":1}')
    assert claim(store, worker) == []
    assert store.stats().dead == 0


@depths_needed
def test_a_retry_waits_for_its_delay_with_one_failure_more(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    due = time.monotonic() + 0.1
    assert settle(store, claimed, "retry", delay_s=0.1)
    stats = balanced(store)
    assert (stats.delayed, stats.running, stats.outbox) == (1, 0, 0)
    (again,) = claimed_after_lapse(store, worker)
    assert time.monotonic() >= due - 0.01
    assert (again.failures, again.crashes, again.payload) == (1, 0, b"payload of a")


@pytest.mark.parametrize("delay_s", [0.0, pytest.param(0.01, marks=pytest.mark.long)])
def test_a_retry_may_change_the_payload(store: AnyStore, delay_s: float) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "retry", delay_s=delay_s, payload=b"an answer")
    (again,) = claimed_after_lapse(store, worker)
    assert (again.task_id, again.failures, again.payload) == ("a", 1, b"an answer")
    assert settle(store, again, "retry", delay_s=delay_s)
    (last,) = claimed_after_lapse(store, worker)
    assert (last.failures, last.payload) == (2, b"an answer")


@pytest.mark.parametrize("action", ["release", "crash", "cooldown"])
def test_whatever_puts_a_task_back_may_change_its_payload(store: AnyStore, action: str) -> None:
    (queue,) = declared(store, max_crashes=5)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, action, payload=b"what it cost")
    (again,) = claimed_after_lapse(store, worker)
    assert again.payload == b"what it cost"
    assert settle(store, again, action)
    (last,) = claimed_after_lapse(store, worker)
    assert last.payload == b"what it cost"


@depths_needed
def test_a_release_puts_back_uncounted_and_in_its_old_place(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "release")
    stats = balanced(store)
    assert (stats.waiting, stats.running) == (2, 0)
    (again,) = claim(store, worker, 1)
    assert (again.task_id, again.failures, again.crashes) == ("a", 0, 0)


def test_a_crash_puts_back_with_one_crash_more_and_the_others_uncounted(store: AnyStore) -> None:
    (queue,) = declared(store, max_crashes=3)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    culprit, beside = claim(store, worker, 2)
    assert settle(store, culprit, "crash", reason="it blocks")
    assert settle(store, beside, "release")
    assert settle(store, culprit, "crash") is False
    again = {each.task_id: each for each in claimed_after_lapse(store, worker, 2)}
    assert (again["a"].failures, again["a"].crashes) == (0, 1)
    assert (again["b"].failures, again["b"].crashes) == (0, 0)


@shared_queues_needed
def test_crashes_that_are_settled_lead_to_the_last_chance(store: AnyStore) -> None:
    (queue,) = declared(store, max_crashes=2)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    for culprit in claim(store, worker):
        assert settle(store, culprit, "crash")
    (alone,) = claim(store, worker, 1)
    assert (alone.task_id, alone.crashes) == ("a", 1)
    assert settle(store, alone, "crash")
    again = {each.task_id: each.crashes for each in claimed_after_lapse(store, worker, 2)}
    assert again == {"a": 2, "b": 1}


@pytest.mark.needs("answers_at_once")
def test_what_came_back_counts_against_the_bound(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1)
    put(store, queue, "a")
    (claimed,) = claim(store, joined(store, [queue]))
    assert settle(store, claimed, "release")
    assert put(store, queue, "b").verdicts == ("refused",)


def test_what_comes_back_is_never_refused(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=2)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    released, retried = claim(store, worker, 2)
    assert put(store, queue, "cd").verdicts == ("accepted", "accepted")
    assert settle(store, released, "release")
    assert settle(store, retried, "retry")
    found = claimed_after_lapse(store, worker, 4)
    assert sorted(ids_of(found)) == ["a", "b", "c", "d"]


@depths_needed
def test_settling_twice_does_nothing_the_second_time(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    (claimed,) = claim(store, joined(store, [queue]))
    settlement = Settlement(claimed, "complete", b"{}", "ok")
    assert store.settle([settlement, settlement]) == [True, False]
    assert store.settle([settlement]) == [False]
    assert balanced(store).outbox == 1


@depths_needed
def test_a_batch_is_settled_one_by_one_and_in_order(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abcde")
    worker = joined(store, [queue])
    claims = {each.task_id: each for each in claim(store, worker)}
    strange = replace(claims["e"], number=claims["e"].number + 7)
    assert store.settle(
        [
            Settlement(claims["a"], "complete", b"1", "ok"),
            Settlement(strange, "complete", b"no", "ok"),
            Settlement(claims["b"], "bury", b"2", "crashed", "it died"),
            Settlement(claims["c"], "retry", delay_s=60),
            Settlement(claims["d"], "release"),
        ]
    ) == [True, False, True, True, True]
    stats = balanced(store)
    assert (stats.waiting, stats.delayed, stats.running, stats.outbox) == (1, 1, 1, 2)
    assert stats.outcomes == {"ok": 1, "crashed": 1}


def test_what_was_settled_can_be_made_durable(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    answered(store, claim(store, joined(store, [queue])))
    store.sync()
    store.sync()


def test_a_claim_of_no_task_settles_as_lost(store: AnyStore) -> None:
    strange = Claim("never-offered", "nowhere", b"", "nobody", 1)
    assert settle(store, strange, "complete", result=b"{}", outcome="ok") is False
