"""ReturnsResults: a worker whose sink fails leaves its results to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import ReturnsResults
from tests.conformance.steps import (
    MEBIBYTE,
    answered,
    balanced,
    claim,
    declared,
    depths_needed,
    ids_of,
    joined,
    put,
)

if TYPE_CHECKING:
    from agentpipe.brokers.records import OutboxRecord, Worker
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=ReturnsResults)


def lent(store: AnyStore) -> tuple[Worker, list[OutboxRecord]]:
    """A worker that was lent three results."""
    (queue,) = declared(store, concurrency=3)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 3))
    return worker, store.take_outbox(worker, 10, MEBIBYTE)


def test_others_are_lent_what_a_worker_returns(store: AnyStore, open_another: OpenStore) -> None:
    worker, (first, *others) = lent(store)
    store.return_outbox(worker, [each.number for each in others])
    other = open_another()
    again = other.take_outbox(joined(other, []), 10, MEBIBYTE)
    assert sorted(ids_of(again)) == sorted(ids_of(others))
    store.drop_outbox(worker, [first.number])
    assert store.take_outbox(worker, 10, MEBIBYTE) == []


@depths_needed
def test_a_returned_result_is_dropped_only_by_the_worker_that_has_it_next(store: AnyStore) -> None:
    worker, records = lent(store)
    numbers = [each.number for each in records]
    store.return_outbox(worker, numbers)
    store.drop_outbox(worker, numbers)
    assert balanced(store).outbox == 3
    again = store.take_outbox(worker, 10, MEBIBYTE)
    store.drop_outbox(worker, [each.number for each in again])
    assert (balanced(store).outbox, balanced(store).delivered) == (0, 3)


def test_what_another_worker_has_stays_with_it(store: AnyStore) -> None:
    worker, records = lent(store)
    store.return_outbox(joined(store, []), [each.number for each in records])
    assert store.take_outbox(worker, 10, MEBIBYTE) == []
    store.return_outbox(worker, [])
    assert store.take_outbox(worker, 10, MEBIBYTE) == []
