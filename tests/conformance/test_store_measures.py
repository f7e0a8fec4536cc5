"""Measures: monotonic counters over all workers, updated together with the settlement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import Answer
from agentpipe.core.usage import Tokens
from tests.conformance.steps import (
    claim,
    collection_of,
    declared,
    depths_needed,
    joined,
    put,
    settle,
)

if TYPE_CHECKING:
    from agentpipe.brokers.measures import Measures
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = depths_needed


def measures(store: AnyStore, name: str) -> Measures:
    found = store.stats().measures
    assert found is not None
    return found[name]


@pytest.fixture(autouse=True)
def _measures_needed(store: AnyStore) -> None:
    if store.stats().measures is None:
        pytest.skip("this store counts no measures")


def test_each_end_is_counted_once_for_its_collection(
    store: AnyStore, open_another: OpenStore
) -> None:
    collection, (first, second) = collection_of(store, 2)
    put(store, first, "abc")
    put(store, second, "d")
    worker = joined(store, [first, second])
    a, b, c, d = sorted(claim(store, worker), key=lambda it: it.task_id)
    settle(store, a, "complete", outcome="ok", usd=0.5, tokens_by_kind=Tokens(7, 3, 2))
    assert not settle(store, a, "complete", outcome="ok", usd=0.5)
    settle(store, b, "bury", outcome="infra_error", usd=0.25)
    settle(store, c, "retry", tokens_by_kind=Tokens(1, 0, 0))
    settle(store, d, "complete", outcome="cancelled")
    found = measures(open_another(), collection)
    ended = {name: number for name, number in found.outcomes.items() if number}
    assert ended == {"ok": 1, "infra_error": 1, "cancelled": 1}
    assert (found.retries, found.rejects, found.usd) == (1, 1, 0.75)
    assert found.tokens == {"input": 8, "output": 3, "cached": 2}
    assert (sum(found.run_s.counts), sum(found.wait_s.counts)) == (4, 4)
    assert 0 < found.run_s.sum_s < 60
    assert 0 <= found.wait_s.sum_s < 60


def test_a_task_that_is_tried_again_waits_once(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    settle(store, claim(store, worker, 1)[0], "retry")
    settle(store, claim(store, worker, 1)[0], "complete", outcome="ok")
    found = measures(store, queue)
    assert (sum(found.run_s.counts), sum(found.wait_s.counts)) == (2, 1)


def test_what_was_given_back_is_no_run(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    settle(store, claim(store, worker, 1)[0], "release")
    settle(store, claim(store, worker, 1)[0], "complete", outcome="ok")
    found = measures(store, queue)
    assert (sum(found.run_s.counts), found.retries) == (1, 0)


def test_a_task_that_is_too_late_has_no_time_of_a_run(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    settle(store, claim(store, worker, 1)[0], "complete", outcome="stale", ran=False)
    found = measures(store, queue)
    times = sum(found.run_s.counts), sum(found.wait_s.counts)
    assert (found.outcomes["stale"], times) == (1, (0, 0))


def test_a_task_that_never_ran_is_counted_by_its_outcome(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    assert store.answer([Answer("a", b"{}", "cancelled"), Answer("z", b"{}", "cancelled")]) == [
        True,
        False,
    ]
    found = measures(store, queue)
    assert (found.outcomes["cancelled"], sum(found.run_s.counts)) == (1, 0)
