"""Offers that report when the sender can build the next one: otherwise they are usual offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import PacesOffers
from agentpipe.brokers.records import Offer
from tests.conformance.steps import balanced, claim, declared, ids_of, joined, offers

if TYPE_CHECKING:
    from tests.stores import AnyStore


class Heard:
    """What a store reports during its offers."""

    def __init__(self) -> None:
        self.reports: list[str] = []

    def pause(self) -> None:
        self.reports.append("pause")

    def end(self) -> None:
        self.reports.append("end")


class Interrupted:
    """A sender that is interrupted at the first report."""

    def pause(self) -> None:
        raise KeyboardInterrupt

    end = pause


@pytest.fixture
def paced(store: AnyStore) -> PacesOffers:
    if not isinstance(store, PacesOffers):
        pytest.skip("it does not say when the next offer can be built")
    return store


def test_packed_offers_are_the_same_offers(paced: PacesOffers) -> None:
    given = [Offer("a", b"1", priority=3), Offer("b", b"2", delay_s=5.0)]
    assert list(paced.pack(given)) == given


@pytest.mark.parametrize("form", ["plain", "packed"])
def test_paced_offers_are_admitted_like_others(
    store: AnyStore, paced: PacesOffers, form: str
) -> None:
    (queue,) = declared(store, max_waiting=2)
    given, pace = offers(["a", "b", "a", "c"]), Heard()
    ready = paced.pack(given) if form == "packed" else given
    found = paced.offer_at_pace(queue, ready, round_robin=False, pace=pace)
    assert found.verdicts == ("accepted", "accepted", "duplicate", "refused")
    assert pace.reports
    assert "end" not in pace.reports[:-1]
    assert balanced(store).accepted == 2
    assert ids_of(claim(store, joined(store, [queue]))) == ["a", "b"]


def test_priorities_are_packed_as_well(store: AnyStore, paced: PacesOffers) -> None:
    (queue,) = declared(store)
    packed = paced.pack([Offer("late", b"{}", priority=5), Offer("soon", b"{}", priority=1)])
    assert store.offer(queue, packed, round_robin=False).verdicts == ("accepted", "accepted")
    assert ids_of(claim(store, joined(store, [queue]))) == ["soon", "late"]


def test_after_an_interruption_the_same_is_accepted_once(
    store: AnyStore, paced: PacesOffers
) -> None:
    (queue,) = declared(store)
    packed = paced.pack(offers(["a"]))
    with pytest.raises(KeyboardInterrupt):
        paced.offer_at_pace(queue, packed, round_robin=False, pace=Interrupted())
    store.offer(queue, packed, round_robin=False)
    assert balanced(store).accepted == 1
    assert ids_of(claim(store, joined(store, [queue]))) == ["a"]
