"""The outbox: results are lent to one worker at a time until the sink has stored them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.conformance.pace import PACE
from tests.conformance.steps import (
    MEBIBYTE,
    PATIENCE_S,
    answered,
    balanced,
    claim,
    declared,
    depths_needed,
    ids_of,
    joined,
    put,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.records import (
        Worker,
    )
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def outbox_of(store: AnyStore, ids: Iterable[str], size: int = 2) -> Worker:
    """A worker, after putting results of these tasks into the outbox."""
    (queue,) = declared(store)
    worker = joined(store, [queue])
    for task_id in ids:
        put(store, queue, [task_id])
        answered(store, claim(store, worker), b"x" * size)
    return worker


def test_the_outbox_is_lent_oldest_first_and_once(store: AnyStore, open_another: OpenStore) -> None:
    worker, other = outbox_of(store, "abcde"), open_another()
    first = store.take_outbox(worker, 2, MEBIBYTE)
    second = other.take_outbox(joined(other, []), 10, MEBIBYTE)
    assert (ids_of(first), ids_of(second)) == (["a", "b"], ["c", "d", "e"])
    assert store.take_outbox(worker, 10, MEBIBYTE) == []


@depths_needed
def test_dropped_records_count_as_delivered(store: AnyStore) -> None:
    worker = outbox_of(store, "abc")
    first, second, _ = store.take_outbox(worker, 10, MEBIBYTE)
    store.drop_outbox(worker, [first.number, second.number])
    stats = balanced(store)
    assert (stats.outbox, stats.outbox_bytes, stats.delivered) == (1, 2, 2)
    store.drop_outbox(worker, [first.number])
    assert balanced(store).delivered == 2


def test_the_records_of_a_worker_that_left_are_lent_to_others(store: AnyStore) -> None:
    worker = outbox_of(store, "ab")
    store.take_outbox(worker, 10, MEBIBYTE)
    store.leave(worker)
    assert ids_of(store.take_outbox(joined(store, []), 10, MEBIBYTE)) == ["a", "b"]


def test_the_records_of_a_lapsed_worker_are_lent_to_others(store: AnyStore) -> None:
    outbox_of(store, "ab")
    silent, other = joined(store, [], PACE.lease_s), joined(store, [])

    def taken() -> list[Any]:
        store.join(silent)
        return store.take_outbox(silent, 10, MEBIBYTE)

    lent = wait_until(taken, PATIENCE_S, "the silent worker takes the outbox")
    found: list[Any] = wait_until(
        lambda: store.take_outbox(other, 10, MEBIBYTE), PATIENCE_S, "the outbox is lent again"
    )
    assert ids_of(found) == ["a", "b"]
    store.drop_outbox(silent, [record.number for record in lent])
    store.leave(other)
    assert len(store.take_outbox(joined(store, []), 10, MEBIBYTE)) == 2


def test_a_worker_that_is_no_longer_known_is_lent_nothing(store: AnyStore) -> None:
    worker = outbox_of(store, "a")
    store.leave(worker)
    assert store.take_outbox(worker, 10, MEBIBYTE) == []
    assert len(store.take_outbox(joined(store, []), 10, MEBIBYTE)) == 1


def test_as_many_records_are_lent_as_fit_and_at_least_one(store: AnyStore) -> None:
    worker = outbox_of(store, "abcd", size=100)
    assert ids_of(store.take_outbox(worker, 10, 250)) == ["a", "b"]
    assert ids_of(store.take_outbox(worker, 10, 50)) == ["c"]
    assert ids_of(store.take_outbox(worker, 10, 100)) == ["d"]
