"""How often ``top`` takes a snapshot of a store."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.errors import StoreError
from agentpipe.monitoring.fetch import Fetcher
from tests.support import wait_until
from tests.unit.fleets import fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentpipe.brokers.statistics import Stats

    Starter = Callable[["Watched", float], Fetcher]


class Watched:
    """A stub store: each snapshot costs CPU time, waiting time, or requests to the broker."""

    def __init__(self, cpu_s: float = 0.0, away_s: float = 0.0, requests: int = 1) -> None:
        self.looks = 0
        self.at: list[float] = []
        self._cpu_s, self._away_s, self._requests = cpu_s, away_s, requests

    def stats(self) -> Stats:
        self.looks += 1
        self.at.append(time.monotonic())
        threading.Event().wait(self._away_s)
        ends = time.thread_time() + self._cpu_s
        while time.thread_time() < ends:
            pass
        return fleet(requests=self._requests)

    def close(self) -> None:
        pass


@pytest.fixture
def start() -> Iterator[Starter]:
    begun: list[Fetcher] = []

    def begin(store: Any, interval_s: float) -> Fetcher:
        begun.append(Fetcher(lambda: store, interval_s, lambda: None))
        begun[-1].start()
        return begun[-1]

    yield begin
    for fetcher in begun:
        fetcher.stop()


@pytest.mark.parametrize("store", [Watched(cpu_s=0.011), Watched(requests=240)])
def test_a_look_that_costs_a_core_much_is_followed_by_a_rest(
    start: Starter, store: Watched
) -> None:
    start(store, 0.02)
    wait_until(lambda: store.looks >= 3, 20, "a third look")
    _first, second, third = store.at[:3]  # The first snapshot does not count.
    assert third - second > 1.0


def test_what_is_drawn_of_a_look_is_a_cost_of_watching(start: Starter) -> None:
    store = Watched()
    start(store, 0.02).drawing_s = 0.011
    before = store.looks  # Some snapshots can already exist.
    wait_until(lambda: store.looks >= before + 3, 20, "a third look")
    assert store.at[before + 2] - store.at[before + 1] > 1.0


def test_how_far_away_the_broker_is_does_not_count(start: Starter) -> None:
    store = Watched(away_s=0.05)
    start(store, 0.02)
    wait_until(lambda: store.looks == 10, 5, "ten looks")


def test_a_refresh_does_not_wait_for_the_interval(start: Starter) -> None:
    store = Watched()
    fetcher = start(store, 600.0)
    wait_until(lambda: fetcher.history.now, 20, "a first look")
    fetcher.refresh()
    wait_until(lambda: store.looks == 2, 20, "a second look, long before its time")


def test_who_serves_others_goes_on_after_any_error() -> None:
    class Broken(Watched):
        closed = 0

        def stats(self) -> Stats:
            seen = super().stats()
            if self.looks == 2:
                raise StoreError("the disk said no")
            return seen

        def close(self) -> None:
            self.closed += 1

    store = Broken()
    fetcher = Fetcher(lambda: store, 0.01, lambda: None, persists=True)  # type: ignore[arg-type,return-value]
    fetcher.start()
    wait_until(lambda: store.looks >= 4, 20, "it looks again")
    assert fetcher.fatal_error is None
    assert fetcher.history.outage is None
    fetcher.stop()
    assert store.closed == 2
