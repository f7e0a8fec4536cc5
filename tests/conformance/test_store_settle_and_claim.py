"""Settling and claiming in one step, for stores that support it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import SettlesAndClaims
from agentpipe.brokers.records import Claim, ClaimRequest, Settlement
from tests.conformance.steps import balanced, claim, declared, ids_of, joined, put, unique
from tests.stores import ROOMY

if TYPE_CHECKING:
    from agentpipe.brokers.records import Worker
    from tests.stores import AnyStore


@pytest.fixture
def both(store: AnyStore) -> SettlesAndClaims:
    if not isinstance(store, SettlesAndClaims):
        pytest.skip("it settles and claims in two steps")
    return store


def done(claimed: Claim) -> Settlement:
    return Settlement(claimed, "complete", b"{}", "ok")


def exchanged(
    store: AnyStore, both: SettlesAndClaims, worker: Worker, claimed: list[Claim], limit: int = 100
) -> tuple[list[bool], list[Claim]]:
    request = ClaimRequest(worker, limit, ROOMY)
    settled, claims = both.settle_and_claim(list(map(done, claimed)), request)
    return settled, store.claim(request) if claims is None else claims


def test_a_queue_of_one_run_gives_its_next_task_in_the_step_that_settles(
    store: AnyStore, both: SettlesAndClaims
) -> None:
    (queue,) = declared(store, concurrency=1)
    put(store, queue, ["first", "second"])
    worker = joined(store, [queue])
    claimed = claim(store, worker)
    settled, after = exchanged(store, both, worker, claimed)
    assert (settled, ids_of(after)) == ([True], ["second"])
    stats = balanced(store)
    assert (stats.running, stats.outbox, stats.outcomes) == (1, 1, {"ok": 1})
    assert exchanged(store, both, worker, after) == ([True], [])


def test_a_lost_claim_is_said_and_does_not_end_its_task(
    store: AnyStore, both: SettlesAndClaims
) -> None:
    (queue,) = declared(store)
    put(store, queue, ["a", "b"])
    worker = joined(store, [queue])
    one, other = claim(store, worker)
    lost = Claim(one.task_id, queue, b"", unique("worker"), one.number)
    settled, after = exchanged(store, both, worker, [lost, other])
    assert (settled, after) == ([False, True], [])
    assert balanced(store).running == 1


def test_each_claim_is_settled_once(store: AnyStore, both: SettlesAndClaims) -> None:
    (queue,) = declared(store)
    put(store, queue, ["a"])
    worker = joined(store, [queue])
    (one,) = claim(store, worker)
    settled, _ = exchanged(store, both, worker, [one, one])
    assert settled == [True, False]
    assert balanced(store).outbox == 1
