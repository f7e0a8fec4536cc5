"""The cost of a claim: it does not grow with the agents that other workers serve."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import Queue
from tests.conformance.steps import (
    answered,
    claim,
    declared,
    offers,
    shared_queues_needed,
    unique,
)
from tests.conformance.steps import joined as join

if TYPE_CHECKING:
    from tests.stores import AnyStore

ROUNDS = 60
# The documented factor is 1.5; a busy machine can disturb a short measurement.
FACTOR = 3.0


def others_with_tasks(store: AnyStore, number: int, *, collections: int) -> None:
    """Fill ``number`` queues that the test's worker does not serve."""
    names = [unique("others") for _ in range(collections)]
    store.declare(
        [Queue(f"{names[n % collections]}_{n}", names[n % collections]) for n in range(number)]
    )
    for name in names:
        ids = [f"{name}-{n}" for n in range(number // collections)]
        for first in range(0, len(ids), 1_000):
            store.offer(name, offers(ids[first : first + 1_000]), round_robin=True)


def least_s(store: AnyStore, number: int) -> float:
    """The time of the fastest claim of one task: slower ones were disturbed by other processes."""
    collection, took = unique("mine"), []
    names = [f"{collection}_{n}" for n in range(number)]
    store.declare([Queue(name, collection, concurrency=10_000) for name in names])
    worker = join(store, names)
    store.offer(collection, offers(f"{collection}-{n}" for n in range(ROUNDS)), round_robin=True)
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        claims = claim(store, worker, 1)
        took.append(time.perf_counter() - begun)
        assert answered(store, claims) == [True]
    store.leave(worker)
    return min(took)


@pytest.mark.race
@pytest.mark.needs("scales")
@shared_queues_needed
@pytest.mark.parametrize("collections", [1, 200])
@pytest.mark.parametrize("mine", [4, pytest.param(60, marks=pytest.mark.long), 200])
def test_a_claim_costs_no_more_with_the_agents_that_others_serve(
    store: AnyStore, collections: int, mine: int
) -> None:
    before_s = min(least_s(store, mine) for _ in range(2))
    others_with_tasks(store, 10_000, collections=collections)
    after_s = min(least_s(store, mine) for _ in range(2))
    assert after_s < FACTOR * before_s, (before_s, after_s)


@shared_queues_needed
def test_a_worker_of_part_of_a_collection_finds_its_tasks(store: AnyStore) -> None:
    collection = unique("shared")
    names = [f"{collection}_{n}" for n in range(400)]
    store.declare([Queue(name, collection) for name in names])
    store.offer(collection, offers(range(400)), round_robin=True)
    (plain,) = declared(store)
    store.offer(plain, offers(["plain"]), round_robin=False)
    worker = join(store, [*names[300:360], plain])
    found = {each.queue for _ in range(61) for each in claim(store, worker, 1)}
    assert found == {*names[300:360], plain}
