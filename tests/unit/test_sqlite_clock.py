"""The embedded store across clock changes and reboots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.brokers.sqlite import clock
from agentpipe.settings import Settings
from tests.budget_jumps import check_caps_over_jumps
from tests.stores import ROOMY, open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.brokers.records import Claim
    from tests.stores import AnyStore

HOUR_S = 3600.0
YEAR_S = 365 * 24 * HOUR_S
JUMPS = [-HOUR_S, HOUR_S, -YEAR_S, YEAR_S]
WORKER = Worker("w", queues=frozenset({"q"}), lease_s=60, slots=10)
SHORT_S = 0.2


class Machine:
    """The machine's wall clock and time since boot, as the store sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._wall_s = self._boot_s = 0.0
        self._boot = "first"
        wall, since_boot = time.time, clock._since_boot  # noqa: SLF001 - replaced here
        monkeypatch.setattr(time, "time", lambda: wall() + self._wall_s)
        monkeypatch.setattr(clock, "_since_boot", lambda: since_boot() + self._boot_s)
        monkeypatch.setattr(clock, "_boot_id", lambda: self._boot)

    def jump(self, seconds: float) -> None:
        self._wall_s += seconds

    def sleep(self, seconds: float) -> None:
        self._wall_s += seconds
        self._boot_s += seconds

    def boot(self, after_s: float) -> None:
        self._boot, self._boot_s = "second", -1000.0
        self._wall_s += after_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def open_store(
    machine: Machine,  # noqa: ARG001 - must precede the first store
    tmp_path: Path,
) -> Iterator[Callable[[], AnyStore]]:
    opened: list[AnyStore] = []

    def open_one() -> AnyStore:
        url = f"sqlite:///{tmp_path / 'a.db'}?synchronous=normal"
        opened.append(open_any(Settings(broker=url, retention_s=HOUR_S)))
        opened[-1].declare([Queue("q", concurrency=10)])
        opened[-1].join(WORKER)
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def offer(store: AnyStore, task_id: str, delay_s: float = 0.0) -> str:
    offers = [Offer(task_id, b"{}", delay_s=delay_s)]
    return store.offer("q", offers, round_robin=False).verdicts[0]


def claim(store: AnyStore) -> list[Claim]:
    return store.claim(ClaimRequest(WORKER, 10, ROOMY))


def claimed_soon(store: AnyStore) -> list[Claim]:
    return wait_until(lambda: claim(store), 10, "it can be claimed")


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_delay_ends_when_it_should(
    open_store: Callable[[], AnyStore], machine: Machine, jump_s: float
) -> None:
    store = open_store()
    offer(store, "short", SHORT_S)
    offer(store, "long", HOUR_S / 2)
    machine.jump(jump_s)
    assert [each.task_id for each in claimed_soon(store)] == ["short"]
    assert claim(open_store()) == []  # A store opened later sees the same time.
    due_at = store.locate("long").due_at
    assert due_at is not None
    assert HOUR_S / 2 - 60 < due_at - time.time() < HOUR_S / 2 + 60
    machine.sleep(HOUR_S)
    assert [each.task_id for each in claim(store)] == ["long"]


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_retry_and_a_cooldown_end_when_they_should(
    open_store: Callable[[], AnyStore], machine: Machine, jump_s: float
) -> None:
    store = open_store()
    offer(store, "a")
    offer(store, "b")
    again, cooled = claim(store)
    store.settle([Settlement(again, "retry", delay_s=SHORT_S)])
    machine.jump(jump_s)
    claimed_soon(store)
    store.settle([Settlement(cooled, "cooldown", delay_s=HOUR_S / 2)])
    machine.jump(jump_s)
    (queue,) = store.stats().queues
    assert HOUR_S / 2 - 60 < (queue.cooldown_s or 0.0) <= HOUR_S / 2
    assert claim(store) == []
    machine.sleep(HOUR_S)
    assert [each.task_id for each in claim(store)] == [cooled.task_id]


@pytest.mark.parametrize("jump_s", JUMPS)
def test_ids_are_remembered_for_as_long_as_promised(
    open_store: Callable[[], AnyStore], machine: Machine, jump_s: float
) -> None:
    store = open_store()
    offer(store, "a")
    store.settle([Settlement(each, "complete", b"{}", "ok") for each in claim(store)])
    machine.jump(jump_s)
    stats = store.stats()
    assert stats.recent == 1
    assert (stats.undelivered_s or 0.0) < 60
    claim(open_store())
    assert offer(store, "a") == "duplicate"
    machine.sleep(HOUR_S + 60)
    claim(open_store())
    assert offer(store, "a") == "accepted"


@pytest.mark.parametrize("wrong_s", [-YEAR_S, -HOUR_S, 0.0])
def test_a_boot_with_a_clock_behind_sets_nothing_back(
    open_store: Callable[[], AnyStore], machine: Machine, wrong_s: float
) -> None:
    store = open_store()
    offer(store, "a")
    store.settle([Settlement(each, "complete", b"{}", "ok") for each in claim(store)])
    offer(store, "delayed", HOUR_S)
    store.close()
    machine.boot(wrong_s)
    store = open_store()
    assert claim(store) == []
    machine.sleep(HOUR_S + 60)
    assert [each.task_id for each in claim(store)] == ["delayed"]


def test_a_delay_goes_on_while_the_machine_is_off(
    open_store: Callable[[], AnyStore], machine: Machine
) -> None:
    store = open_store()
    offer(store, "delayed", HOUR_S)
    store.close()
    machine.boot(2 * HOUR_S)
    assert [each.task_id for each in claim(open_store())] == ["delayed"]


@pytest.mark.parametrize("jump_s", [2 * HOUR_S, -2 * HOUR_S])
def test_budgets_stop_at_their_caps_and_not_before(
    open_store: Callable[[], AnyStore], machine: Machine, jump_s: float
) -> None:
    check_caps_over_jumps(
        open_store(), WORKER, lambda: machine.jump(jump_s), lambda: machine.jump(-jump_s)
    )
