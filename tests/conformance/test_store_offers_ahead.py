"""Prepared offers with a callback when they are sent: otherwise they behave as usual offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import OffersAhead
from agentpipe.brokers.records import Offer
from tests.conformance.steps import balanced, claim, declared, ids_of, joined, offers

if TYPE_CHECKING:
    from tests.stores import AnyStore


@pytest.fixture
def ahead(store: AnyStore) -> OffersAhead:
    if not isinstance(store, OffersAhead):
        pytest.skip("it does not say when an offer is sent")
    return store


def test_packed_offers_are_the_same_offers(ahead: OffersAhead) -> None:
    given = [Offer("a", b"1", priority=3), Offer("b", b"2", delay_s=5.0)]
    assert list(ahead.pack(given)) == given


def test_what_is_packed_is_admitted_like_others(store: AnyStore, ahead: OffersAhead) -> None:
    (queue,) = declared(store, max_waiting=2)
    said: list[str] = []
    found = ahead.offer_ahead(
        queue,
        ahead.pack(offers(["a", "b", "a", "c"])),
        round_robin=False,
        sent=lambda: said.append("sent"),
    )
    assert found.verdicts == ("accepted", "accepted", "duplicate", "refused")
    assert said == ["sent"]
    assert balanced(store).accepted == 2
    assert ids_of(claim(store, joined(store, [queue]))) == ["a", "b"]


def test_priorities_are_packed_as_well(store: AnyStore, ahead: OffersAhead) -> None:
    (queue,) = declared(store)
    packed = ahead.pack([Offer("late", b"{}", priority=5), Offer("soon", b"{}", priority=1)])
    assert store.offer(queue, packed, round_robin=False).verdicts == ("accepted", "accepted")
    assert ids_of(claim(store, joined(store, [queue]))) == ["soon", "late"]


def test_after_an_interruption_the_same_is_accepted_once(
    store: AnyStore, ahead: OffersAhead
) -> None:
    (queue,) = declared(store)

    def stop() -> None:
        raise KeyboardInterrupt

    packed = ahead.pack(offers(["a"]))
    with pytest.raises(KeyboardInterrupt):
        ahead.offer_ahead(queue, packed, round_robin=False, sent=stop)
    store.offer(queue, packed, round_robin=False)
    assert balanced(store).accepted == 1
    assert ids_of(claim(store, joined(store, [queue]))) == ["a"]
