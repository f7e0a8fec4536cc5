"""Connections: payloads, ids, threads, and closing."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import Offer
from agentpipe.errors import Unreachable
from tests.conformance.steps import (
    MEBIBYTE,
    PATIENCE_S,
    answered,
    claim,
    declared,
    ids_of,
    joined,
    put,
    settle,
)

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def test_large_payloads_pass_unchanged(store: AnyStore) -> None:
    (queue,) = declared(store)
    payload, result = os.urandom(9 * MEBIBYTE), os.urandom(20 * MEBIBYTE)
    store.offer(queue, [Offer("large", payload)], round_robin=False)
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert claimed.payload == payload
    assert settle(store, claimed, "complete", result=result, outcome="ok")
    (record,) = store.take_outbox(worker, 1, MEBIBYTE)
    assert record.payload == result


def test_any_text_is_an_id(store: AnyStore) -> None:
    (queue,) = declared(store)
    strange = ["", "a b", "'; DROP TABLE tasks; --", "Zoë ☃ \U0001f600", "x" * 256, "1", "01", "%"]
    assert put(store, queue, strange).verdicts == ("accepted",) * len(strange)
    claims = claim(store, joined(store, [queue]))
    assert sorted(ids_of(claims)) == sorted(strange)
    assert all(answered(store, claims))


def test_everything_survives_closing(store: AnyStore, open_another: OpenStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 1))
    store.leave(worker)
    store.close()
    later = open_another()
    reader = joined(later, [queue])
    assert ids_of(later.take_outbox(reader, 10, MEBIBYTE)) == ["a"]
    assert ids_of(claim(later, reader)) == ["b"]


def test_closing_twice_is_harmless_and_a_closed_store_is_unreachable(store: AnyStore) -> None:
    (queue,) = declared(store)
    store.close()
    store.close()
    with pytest.raises(Unreachable):
        put(store, queue, "a")
    with pytest.raises(Unreachable):
        store.stats()


def test_closing_does_not_break_a_wait(store: AnyStore) -> None:
    begun = threading.Event()
    ends: list[Unreachable | None] = []

    def wait_for_it() -> None:
        begun.set()
        try:
            store.wait(0.3)
        except Unreachable as error:
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    begun.wait(PATIENCE_S)
    store.close()
    thread.join(PATIENCE_S)
    assert len(ends) == 1


@pytest.mark.race
def test_many_threads_may_share_a_store(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1000)
    worker = joined(store, [queue])
    found: list[str] = []

    def offer_and_claim(number: int) -> None:
        for index in range(10):
            put(store, queue, [f"{number}-{index}"])
            claims = claim(store, worker, 2)
            answered(store, claims)
            found.extend(ids_of(claims))

    threads = [threading.Thread(target=offer_and_claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    found += ids_of(claim(store, worker))
    assert sorted(found) == sorted(
        f"{number}-{index}" for number in range(6) for index in range(10)
    )
