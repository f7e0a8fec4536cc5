"""The ledger: at every moment, stats count each task exactly once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import (
    Settlement,
    Worker,
)
from agentpipe.brokers.statistics import QueueDepth, Tally
from tests.conformance.pace import PACE
from tests.conformance.steps import (
    COOLDOWN_S,
    MEBIBYTE,
    PATIENCE_S,
    answered,
    balanced,
    claim,
    collection_of,
    declared,
    depths_needed,
    joined,
    offers,
    put,
    settle,
    tallies_needed,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.stores import AnyStore


@depths_needed
def test_an_empty_store_has_an_empty_ledger(store: AnyStore) -> None:
    stats = balanced(store)
    assert (stats.accepted, stats.outbox, stats.outbox_bytes, stats.delivered) == (0, 0, 0, 0)
    assert (stats.dead, stats.outcomes, stats.queues, stats.workers) == (0, {}, (), ())


@depths_needed
def test_stats_show_each_queue_of_a_collection_in_order(store: AnyStore) -> None:
    collection, names = collection_of(store, 12, max_waiting=5, concurrency=2)
    store.offer(collection, offers(range(13)), round_robin=True)
    claim(store, joined(store, [names[0]]), 1)
    seen = [depth for depth in balanced(store).queues if depth.collection == collection]
    assert [depth.queue for depth in seen] == names
    assert seen[0] == QueueDepth(
        names[0], collection, 1, 0, 1, limit=5, concurrency=2, cooldown_s=0.0
    )


def test_stats_show_the_living_workers(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = Worker(
        unique("worker"), "host", os.getpid(), slots=9, lease_s=60, queues=frozenset([queue])
    )
    store.join(worker)
    joined(store, [], PACE.lease_s)
    claim(store, worker)

    def seen() -> Any:
        workers = store.stats().workers
        return workers[0] if len(workers) == 1 else None

    shown: Any = wait_until(seen, PATIENCE_S, "only the living worker is shown")
    assert (shown.name, shown.host, shown.pid) == (worker.name, "host", os.getpid())
    assert (shown.slots, shown.running) == (9, 2)
    assert 0 <= shown.seen_s < PATIENCE_S


def test_stats_show_what_a_worker_last_told_of_itself(store: AnyStore) -> None:
    worker = joined(store, declared(store))
    assert [seen.report for seen in store.stats().workers] == [b""]
    assert store.heartbeat(worker, b'{"a": "\xc3\xa4"}')
    assert store.heartbeat(worker)
    assert [seen.report for seen in store.stats().workers] == [b'{"a": "\xc3\xa4"}']


@tallies_needed
def test_stats_tell_what_has_ended_of_each_queue(store: AnyStore) -> None:
    first, second = declared(store, 2)
    put(store, first, "abcd")
    put(store, second, "e")
    worker = joined(store, [first, second])
    claims = {each.task_id: each for each in claim(store, worker)}
    done = store.settle(
        [
            Settlement(claims["a"], "complete", b"{}", "ok", reward=0.5, usd=0.25),
            Settlement(claims["b"], "complete", b"{}", "ok", reward=1.0),
            Settlement(claims["c"], "bury", b"{}", "infra_error", reason="OSError: gone"),
            Settlement(claims["d"], "retry", reason="OSError: slow", delay_s=60, usd=0.5),
            Settlement(claims["e"], "complete", b"{}", "cancelled"),
        ]
    )
    assert done == [True] * 5
    assert not settle(store, claims["a"], "complete", result=b"{}", outcome="ok", usd=9.0)
    stats = store.stats()
    tallies = {depth.queue: depth.tally for depth in stats.queues}
    age_s = tallies[first].error_s
    assert age_s is not None
    assert 0 <= age_s < PATIENCE_S
    assert tallies[first] == Tally(2, 1, 2, 1.5, 0.75, "OSError: slow", age_s)
    assert tallies[second] == Tally()
    assert stats.tally == Tally(2, 1, 2, 1.5, 0.75)
    assert stats.recent == 4


@depths_needed
@tallies_needed
def test_stats_tell_for_how_long_the_oldest_result_waits(store: AnyStore) -> None:
    (queue,) = declared(store)
    assert store.stats().undelivered_s == 0
    put(store, queue, "ab")
    worker = joined(store, [queue])
    answered(store, claim(store, worker))
    wait_until(lambda: (store.stats().undelivered_s or 0) > COOLDOWN_S, PATIENCE_S, "it gets older")
    store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 9, MEBIBYTE)])
    assert store.stats().undelivered_s == 0
