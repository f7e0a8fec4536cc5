"""PausesQueues: no worker claims from paused queues and collections."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import PausesQueues
from agentpipe.brokers.records import (
    Claim,
    Queue,
)
from tests.conformance.pace import PACE
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
from tests.stores import claim_up_to

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=PausesQueues)


def paused(store: AnyStore) -> set[str]:
    return {depth.queue for depth in store.stats().queues if depth.paused}


def test_a_paused_queue_gives_nothing_until_it_is_resumed(store: AnyStore) -> None:
    idle, other = declared(store, 2)
    put(store, idle, "ab")
    put(store, other, "c")
    worker = joined(store, [idle, other])
    store.pause(queues=[idle], paused=True)
    assert ids_of(claim(store, worker)) == ["c"]
    assert paused(store) == {idle}
    store.pause(queues=[idle], paused=False)
    assert sorted(ids_of(claimed_after_lapse(store, worker, 2))) == ["a", "b"]
    assert not paused(store)


def test_a_pause_holds_for_workers_that_are_there_already(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    working = open_another()
    worker = joined(working, [queue])
    claim(working, worker)
    store.pause(queues=[queue], paused=True)
    put(store, queue, "a")
    assert claim(working, worker) == []
    store.pause(queues=[queue], paused=False)
    assert ids_of(claimed_after_lapse(working, worker)) == ["a"]


def test_a_paused_collection_is_paused_with_the_queues_that_it_gets_later(store: AnyStore) -> None:
    collection, names = collection_of(store, 2)
    store.pause(collections=[collection], paused=True)
    later = f"{collection}_later"
    renamed = [names[0], later]
    store.declare([Queue(name, collection, concurrency=100) for name in renamed])
    for name in renamed:
        put(store, name, [f"task of {name}"])
    worker = joined(store, [*names, later])
    assert claim(store, worker) == []
    assert paused(store) >= {*renamed}
    store.pause(collections=[collection], paused=False)
    assert len(claimed_after_lapse(store, worker, 2)) == 2


def test_an_agents_pause_and_its_collections_are_two(store: AnyStore) -> None:
    collection, names = collection_of(store, 2)
    for name in names:
        put(store, name, [f"task of {name}"])
    store.pause(queues=[names[0]], collections=[collection], paused=True)
    worker = joined(store, names)
    store.pause(queues=[names[0]], paused=False)
    assert paused(store) == {*names}
    assert claim(store, worker) == []
    store.pause(queues=[names[0]], paused=True)
    store.pause(collections=[collection], paused=False)
    assert paused(store) == {names[0]}
    assert ids_of(claimed_after_lapse(store, worker)) == [f"task of {names[1]}"]


def test_a_pause_outlives_all_who_knew_of_it(store: AnyStore, open_another: OpenStore) -> None:
    one, other = declared(store, 2)
    settled, later = open_another(), open_another()
    store.leave(joined(store, [one, other]))
    settled.pause(queues=[one], paused=True)
    settled.close()
    store.close()
    put(later, one, "a")
    put(later, other, "b")
    assert ids_of(claim(later, joined(later, [one, other]))) == ["b"]


def test_what_runs_in_a_paused_queue_ends_and_what_comes_back_stays(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    finished, released, retried = claim(store, worker, 3)
    store.pause(queues=[queue], paused=True)
    assert settle(store, finished, "complete", result=b"{}", outcome="ok")
    assert settle(store, released, "release")
    assert settle(store, retried, "retry", delay_s=0)
    assert claim(store, worker) == []
    store.pause(queues=[queue], paused=False)
    assert sorted(ids_of(claimed_after_lapse(store, worker, 2))) == ["b", "c"]


def test_a_paused_queue_takes_offers_up_to_its_bound(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=2)
    store.pause(queues=[queue], paused=True)
    assert put(store, queue, "abc").verdicts == ("accepted", "accepted", "refused")


def test_a_resumed_queue_wakes_who_waits(store: AnyStore, open_another: OpenStore) -> None:
    (queue,) = declared(store)
    store.pause(queues=[queue], paused=True)
    put(store, queue, "a")
    working = open_another()
    worker = joined(working, [queue])
    assert claim(working, worker) == []
    PACE.settle(working)
    resuming = threading.Thread(target=store.pause, kwargs={"queues": [queue], "paused": False})
    began = time.monotonic()
    resuming.start()
    claims: list[Claim] = []
    while not claims and time.monotonic() < began + PATIENCE_S:
        working.wait(PATIENCE_S)
        claims = claim_up_to(1, working, worker)
    resuming.join()
    assert ids_of(claims) == ["a"]
    assert time.monotonic() < began + PATIENCE_S / 2
