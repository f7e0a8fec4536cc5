"""BreaksOnFailures: a collection is paused when its runs keep failing the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.breaker import Tripped
from agentpipe.brokers.capabilities import BreaksOnFailures
from agentpipe.brokers.records import Claim, RunFailure, Settlement
from tests.conformance.steps import (
    PATIENCE_S,
    claim,
    claimed_after_lapse,
    collection_of,
    declared,
    ids_of,
    joined,
    put,
    settle,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=BreaksOnFailures)

ANSWER = {"result": b"{}", "outcome": "ok"}
FAILED = {"result": b"{}", "outcome": "agent_error", "reason": "ValueError: no"}


def failure(digest: str = "same", limit: int = 3) -> dict[str, Any]:
    return {**FAILED, "failure": RunFailure(digest, limit)}


class Crew:
    """A collection with a worker, which claims and settles its tasks."""

    def __init__(self, store: AnyStore, tasks: int = 8) -> None:
        self.store = store
        self.collection, (self.queue,) = collection_of(store, 1)
        put(store, self.queue, range(tasks))
        self.worker = joined(store, [self.queue])

    def claim(self, number: int) -> list[Claim]:
        claims = claim(self.store, self.worker, number)
        assert len(claims) == number
        return claims

    def end(self, *runs: dict[str, Any]) -> None:
        for claimed, run in zip(self.claim(len(runs)), runs, strict=True):
            assert settle(self.store, claimed, run.get("action", "complete"), **fields_of(run))

    @property
    def reason(self) -> str:
        (depth,) = [it for it in self.store.stats().queues if it.queue == self.queue]
        assert depth.paused is bool(depth.pause_reason)
        return depth.pause_reason


def fields_of(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "action"}


def test_equal_failures_in_a_row_pause_the_collection_with_the_reason(store: AnyStore) -> None:
    crew = Crew(store)
    crew.end(failure(), failure())
    assert (crew.reason, store.take_tripped()) == ("", [])
    crew.end(failure())
    reason = "3 runs in a row failed the same way: ValueError: no"
    assert store.take_tripped() == [Tripped(crew.collection, reason)]
    assert store.take_tripped() == []
    assert crew.reason == reason
    assert claim(store, crew.worker) == []


def test_a_row_ends_with_success_or_another_failure(store: AnyStore) -> None:
    crew = Crew(store)
    crew.end(failure(), failure(), ANSWER, failure(), failure(), failure("other"), failure())
    assert (crew.reason, store.take_tripped()) == ("", [])


def test_what_neither_failed_nor_succeeded_neither_counts_nor_interrupts(store: AnyStore) -> None:
    crew = Crew(store)
    limit = {**FAILED, "outcome": "limit"}
    crew.end(failure(), limit, {**FAILED, "outcome": "cancelled"}, {"action": "release"}, failure())
    assert crew.reason == ""
    crew.end(failure())
    assert crew.reason


def test_a_failure_counts_whatever_becomes_of_the_task(store: AnyStore) -> None:
    crew = Crew(store)
    retried = {"action": "retry", "reason": "ValueError: no", "failure": RunFailure("same", 3)}
    crew.end(failure(), {**failure(), "action": "bury"}, retried)
    assert crew.reason


def test_failures_of_one_batch_count_in_order(store: AnyStore) -> None:
    crew = Crew(store)
    runs = [failure(), failure(), ANSWER, failure()]
    claims = crew.claim(len(runs))
    pairs = zip(claims, runs, strict=True)
    assert all(store.settle([Settlement(each, "complete", **run) for each, run in pairs]))
    assert crew.reason == ""
    crew.end(failure(), failure())
    assert crew.reason


def test_a_lost_claim_does_not_count(store: AnyStore) -> None:
    crew = Crew(store)
    (lost,) = crew.claim(1)
    store.leave(crew.worker)
    assert not settle(store, lost, "complete", **failure())
    crew.worker = joined(store, [crew.queue])
    crew.end(failure(), failure())
    assert crew.reason == ""


def test_resume_ends_it_and_the_count_begins_anew(store: AnyStore) -> None:
    crew = Crew(store)
    crew.end(failure(), failure(), failure())
    store.pause(collections=[crew.collection], paused=False)
    assert crew.reason == ""
    more = claimed_after_lapse(store, crew.worker, 5)
    for each in more[:2]:
        assert settle(store, each, "complete", **failure())
    assert crew.reason == ""
    assert settle(store, more[2], "complete", **failure())
    assert crew.reason


def test_what_ran_meanwhile_ends_and_what_comes_back_stays(store: AnyStore) -> None:
    crew = Crew(store, 6)
    *failing, answered, retried = crew.claim(5)
    for each in failing:
        assert settle(store, each, "complete", **failure())
    assert settle(store, answered, "complete", **ANSWER)
    assert settle(store, retried, "retry", delay_s=0)
    assert crew.reason
    assert claim(store, crew.worker) == []
    store.pause(collections=[crew.collection], paused=False)
    assert len(claimed_after_lapse(store, crew.worker, 2)) == 2


def test_it_pauses_all_queues_of_its_collection_and_no_other(store: AnyStore) -> None:
    collection, (failing, sibling) = collection_of(store, 2)
    (other,) = declared(store)
    put(store, failing, "abc")
    worker = joined(store, [failing, sibling, other])
    for each in claim(store, worker, 3):
        assert settle(store, each, "complete", **failure())
    assert [it.collection for it in store.take_tripped()] == [collection]
    put(store, sibling, "d")
    put(store, other, "e")
    assert ids_of(claim(store, worker)) == ["e"]


def test_a_queue_outside_any_collection_has_no_breaker(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abcd")
    worker = joined(store, [queue])
    for each in claim(store, worker, 3):
        assert settle(store, each, "complete", **failure())
    assert ids_of(claim(store, worker)) == ["d"]


def test_all_workers_count_together(store: AnyStore, open_another: OpenStore) -> None:
    collection, queues = collection_of(store, 2)
    for queue in queues:
        put(store, queue, [f"{queue}-{number}" for number in range(4)])
    other = open_another()
    stores = [store, other]
    workers = [joined(each, [queue]) for each, queue in zip(stores, queues, strict=True)]
    claims = [claim(each, worker, 2) for each, worker in zip(stores, workers, strict=True)]
    for first_or_second in range(2):  # Two failures each, four in total.
        for each, its in zip(stores, claims, strict=True):
            assert settle(each, its[first_or_second], "complete", **failure(limit=4))

    def is_paused() -> bool:
        return all(it.pause_reason for it in store.stats().queues if it.collection == collection)

    wait_until(is_paused, PATIENCE_S, "the collection is paused")
    assert [it.collection for it in (*store.take_tripped(), *other.take_tripped())] == [collection]
    assert claim(store, workers[0]) == []
    assert claim(other, workers[1]) == []


def test_it_outlives_all_who_knew_of_it(store: AnyStore, open_another: OpenStore) -> None:
    crew = Crew(store)
    crew.end(failure(), failure(), failure())
    store.leave(crew.worker)
    later = open_another()
    store.close()
    crew.store = later
    assert crew.reason
    assert claim(later, joined(later, [crew.queue])) == []


def test_a_task_behind_it_says_why(store: AnyStore) -> None:
    crew = Crew(store)
    crew.end(failure(), failure(), failure())
    agents = [store.locate("7").agent, *store.locate("7").candidates]
    assert {(it.collection_paused, it.pause_reason) for it in agents if it is not None} == {
        (True, crew.reason)
    }


def test_a_pause_by_hand_has_its_own_reason_or_none(store: AnyStore) -> None:
    crew = Crew(store)
    store.pause(collections=[crew.collection], paused=True)
    (depth,) = [it for it in store.stats().queues if it.queue == crew.queue]
    assert (depth.paused, depth.pause_reason) == (True, "")
    store.pause(collections=[crew.collection], paused=True, reason="night")
    assert crew.reason == "night"
    store.pause(collections=[crew.collection], paused=False)
    assert crew.reason == ""
