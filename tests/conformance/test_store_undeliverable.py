"""KeepsUndeliverable: results that the sink refuses are kept, listed and delivered again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import KeepsUndeliverable
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.brokers.records import OutboxRecord, Refusal
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
    from agentpipe.brokers.records import Worker
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsUndeliverable)
ALL = DeadFilter()


def borrowed(store: AnyStore, worker: Worker, number: int) -> list[OutboxRecord]:
    found: list[OutboxRecord] = []

    def take() -> bool:
        found.extend(store.take_outbox(worker, 100, MEBIBYTE))
        return len(found) == number

    wait_until(take, PATIENCE_S, f"{number} results are borrowed")
    return found


def results(store: AnyStore, *ids: str) -> tuple[Worker, list[OutboxRecord]]:
    (queue,) = declared(store)
    put(store, queue, ids)
    worker = joined(store, [queue])
    assert all(answered(store, claim(store, worker, len(ids))))
    return worker, borrowed(store, worker, len(ids))


def refusal(record: OutboxRecord, reason: str = "too large") -> Refusal:
    return Refusal(record, "crew_0", "crew", "ok", reason)


def listed(store: AnyStore, wanted: DeadFilter = ALL) -> list[str]:
    return ids_of(store.undeliverable.dead_letters(wanted, "", 100).letters)


def test_what_is_set_aside_is_listed_and_no_longer_in_the_outbox(store: AnyStore) -> None:
    worker, records = results(store, "a", "b", "c")
    bad = next(each for each in records if each.task_id == "b")
    store.set_aside(worker, [refusal(bad)])
    store.drop_outbox(worker, [each.number for each in records if each is not bad])
    assert store.take_outbox(worker, 100, MEBIBYTE) == []
    wait_until(lambda: listed(store) == ["b"], PATIENCE_S, "it is listed")
    (letter,) = store.undeliverable.read_dead(["b"])
    assert (letter.queue, letter.collection, letter.outcome) == ("crew_0", "crew", "ok")
    assert (letter.reason, letter.payload, letter.result) == ("too large", b"", bad.payload)
    assert store.dead_letters(ALL, "", 100).letters == ()
    assert store.undeliverable.count_dead(ALL) == 1
    assert (store.stats().undeliverable, store.stats().dead) == (1, 0)


@depths_needed
def test_the_ledger_counts_it(store: AnyStore) -> None:
    worker, records = results(store, "a", "b")
    store.set_aside(worker, [refusal(records[0])])
    stats = balanced(store)
    assert (stats.outbox, stats.undeliverable, stats.delivered) == (1, 1, 0)
    assert stats.outbox_bytes == len(records[1].payload)
    assert store.deliver_again([records[0].task_id]) == 1
    stats = balanced(store)
    assert (stats.outbox, stats.undeliverable, stats.delivered) == (2, 0, 0)
    assert stats.outbox_bytes == sum(len(each.payload) for each in records)
    assert sum(stats.outcomes.values()) == 2


def test_what_is_delivered_again_is_in_the_outbox_once_and_whole(store: AnyStore) -> None:
    worker, records = results(store, "a", "b", "c")
    store.set_aside(worker, list(map(refusal, records)))
    wait_until(lambda: len(listed(store)) == 3, PATIENCE_S, "all are listed")
    assert store.deliver_again(["a", "c", "nobody"]) == 2
    assert store.deliver_again(["a"]) == 0
    again = borrowed(store, worker, 2)
    assert sorted(ids_of(again)) == ["a", "c"]
    whole = {each.task_id: each.payload for each in records}
    assert all(each.payload == whole[each.task_id] for each in again)
    store.drop_outbox(worker, [each.number for each in again])
    wait_until(lambda: listed(store) == ["b"], PATIENCE_S, "one is left")


def test_dropped_ones_are_gone(store: AnyStore) -> None:
    worker, records = results(store, "a", "b")
    store.set_aside(worker, list(map(refusal, records)))
    wait_until(lambda: len(listed(store)) == 2, PATIENCE_S, "both are listed")
    assert store.undeliverable.drop_dead(["a"]) == 1
    wait_until(lambda: listed(store) == ["b"], PATIENCE_S, "one is left")


def test_filters_apply(store: AnyStore) -> None:
    worker, records = results(store, "a", "b")
    store.set_aside(worker, [refusal(records[0], "too Large"), refusal(records[1], "no key")])
    wait_until(lambda: len(listed(store)) == 2, PATIENCE_S, "both are listed")
    assert listed(store, DeadFilter(error="large")) == [records[0].task_id]
    assert listed(store, DeadFilter(collection="nobody")) == []


def test_only_the_worker_that_borrowed_it_sets_it_aside(store: AnyStore) -> None:
    _, (record,) = results(store, "a")
    other = joined(store, ["queue"])
    store.set_aside(other, [refusal(record)])
    assert listed(store) == []


def test_setting_aside_again_changes_nothing(store: AnyStore) -> None:
    worker, (record,) = results(store, "a")
    for _ in range(2):
        store.set_aside(worker, [refusal(record)])
    wait_until(lambda: listed(store) == ["a"], PATIENCE_S, "it is listed once")
    assert store.stats().undeliverable == 1
