"""Waiting: a worker wakes up when it can claim."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.conformance.steps import (
    PATIENCE_S,
    claim,
    declared,
    joined,
    put,
    shared_queues_needed,
    signals_needed,
)

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


@signals_needed
def test_wait_returns_early_when_another_connection_offers(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    claim(store, joined(store, [queue]))
    other = open_another()
    store.wait(0)
    waiting, returned = threading.Event(), threading.Event()

    def wait_for_it() -> None:
        waiting.set()
        store.wait(30)
        returned.set()

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    waiting.wait(PATIENCE_S)
    assert not returned.wait(0.05)
    put(other, queue, "a")
    assert returned.wait(10)
    thread.join(PATIENCE_S)


def test_wait_returns_for_what_was_offered_just_before(store: AnyStore) -> None:
    (queue,) = declared(store)
    claim(store, joined(store, [queue]))
    store.wait(0)
    put(store, queue, "a")
    begun = time.monotonic()
    store.wait(30)
    assert time.monotonic() - begun < 10


@shared_queues_needed
def test_wait_returns_for_what_a_claim_kept_back(store: AnyStore, open_another: OpenStore) -> None:
    queues = declared(store, 4, concurrency=1)
    for queue in queues:
        put(store, queue, [queue])
    one, _ = (joined(store, queues) for _ in range(2))
    ears = (store, open_another())
    for ear in ears * 2:  # The first wait can be the one that subscribes.
        ear.wait(0)
    assert len(claim(store, one, held=0)) == 2
    for ear in ears:
        begun = time.monotonic()
        ear.wait(30)
        assert time.monotonic() - begun < 10


@signals_needed
def test_wait_gives_up_at_its_timeout(store: AnyStore) -> None:
    store.wait(0)
    begun = time.monotonic()
    store.wait(0.05)
    assert 0.04 <= time.monotonic() - begun < 10
