"""Offers that report when other threads can run: otherwise they behave as usual offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import OffersAside
from tests.conformance.steps import balanced, claim, declared, ids_of, joined, offers

if TYPE_CHECKING:
    from tests.stores import AnyStore


@pytest.fixture
def aside(store: AnyStore) -> OffersAside:
    if not isinstance(store, OffersAside):
        pytest.skip("it does not say when an offer leaves the interpreter to others")
    return store


def test_the_caller_is_told_of_pauses_and_all_is_as_of_another_offer(
    store: AnyStore, aside: OffersAside
) -> None:
    (queue,) = declared(store, max_waiting=2)
    said: list[str] = []
    found = aside.offer_aside(
        queue, offers(["a", "b", "a", "c"]), round_robin=False, aside=lambda: said.append("now")
    )
    assert found.verdicts == ("accepted", "accepted", "duplicate", "refused")
    assert said
    assert balanced(store).accepted == 2
    assert ids_of(claim(store, joined(store, [queue]))) == ["a", "b"]


def test_what_the_caller_raises_then_undoes_the_offer(store: AnyStore, aside: OffersAside) -> None:
    (queue,) = declared(store)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aside.offer_aside(queue, offers(["a"]), round_robin=False, aside=stop)
    assert claim(store, joined(store, [queue])) == []
    again = aside.offer_aside(queue, offers(["a"]), round_robin=False, aside=lambda: None)
    assert again.verdicts == ("accepted",)
