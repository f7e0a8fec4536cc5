"""KeepsBudgets: after the settlement that spends a budget, no worker can claim."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import Answer, KeepsBudgets
from agentpipe.brokers.records import Queue, Settlement, Source
from agentpipe.brokers.statistics import is_done
from agentpipe.core.budgets import Budget, Spending
from tests.conformance.processes import spend_until_nothing_comes
from tests.conformance.steps import (
    PATIENCE_S,
    SPAWN,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    collection_of,
    depths_needed,
    ids_needed,
    ids_of,
    joined,
    put,
    settle,
    shared_queues_needed,
    sources_needed,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.records import Claim
    from agentpipe.brokers.statistics import QueueDepth
    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsBudgets)

ANSWER: dict[str, Any] = {"result": b"{}", "outcome": "ok"}


class Payer:
    """A collection with a budget, and a worker that settles its tasks with costs."""

    def __init__(self, store: AnyStore, budget: Budget, number: int = 1) -> None:
        self.store = store
        self.collection, self.queues = collection_of(store, number, budget=budget)
        self.queue = self.queues[0]
        self.worker = joined(store, self.queues)

    def pay(self, claimed: Claim, action: str = "complete", **cost: Any) -> None:
        fields = ANSWER if action in ("complete", "bury") else {}
        assert settle(self.store, claimed, action, **fields, **cost)

    def one_more(self) -> Claim:
        (claimed,) = wait_until(
            lambda: claim(self.store, self.worker, 1), PATIENCE_S, "a task is claimed"
        )
        return claimed

    def declare(self, budget: Budget, source: Source | None = None) -> None:
        self.store.declare(
            [
                Queue(name, self.collection, concurrency=100, budget=budget, source=source)
                for name in self.queues
            ]
        )

    @property
    def spending(self) -> Spending:
        return spending_of(self.store, "collection", self.collection)

    @property
    def depth(self) -> QueueDepth:
        (found,) = [it for it in self.store.stats().queues if it.queue == self.queue]
        return found


def spending_of(store: AnyStore, kind: str, name: str) -> Spending:
    (found,) = [it for it in store.spendings() if (it.kind, it.name) == (kind, name)]
    return found


def test_claims_stop_at_the_cap_and_what_runs_finishes(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, range(6))
    first, second, third = claim(store, payer.worker, 3)
    payer.pay(first, usd=0.5)
    assert not payer.depth.paused
    payer.pay(second, usd=0.5)
    assert claim(store, payer.worker) == []
    payer.pay(third, usd=0.25)
    assert payer.spending == Spending("collection", payer.collection, Budget(1.0), 1.25)
    assert (payer.spending.is_spent, payer.spending.overshoot_usd) == (True, 0.25)
    depth = payer.depth
    assert (depth.paused, depth.budget_spent) == (True, True)
    assert depth.pause_reason == "the budget is spent: $1.25 of $1.00"


def test_tokens_have_a_cap_of_their_own(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=100.0, tokens=1_000))
    put(store, payer.queue, range(3))
    payer.pay(payer.one_more(), usd=0.5, tokens=999)
    payer.pay(payer.one_more(), tokens=1)
    assert claim(store, payer.worker) == []
    assert (payer.spending.usd, payer.spending.tokens) == (0.5, 1_000)


@pytest.mark.parametrize("action", ["retry", "release", "crash", "cooldown", "bury"])
def test_a_run_that_is_tried_again_has_cost_as_well(store: AnyStore, action: str) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "ab")
    payer.pay(payer.one_more(), action, usd=1.5)
    assert payer.spending.usd == 1.5
    assert claim(store, payer.worker) == []


def test_many_small_costs_reach_the_cap_exactly(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, range(12))
    for claimed in claim(store, payer.worker, 10):
        assert not payer.depth.budget_spent
        payer.pay(claimed, usd=0.1)  # As doubles, ten of them add up to a bit less than 1.
    assert payer.depth.budget_spent
    assert payer.spending.overshoot_usd == 0.0


def test_a_lost_claim_costs_nothing_more(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "ab")
    (lost,) = claim(store, payer.worker, 1)
    store.leave(payer.worker)
    assert not settle(store, lost, "complete", **ANSWER, usd=5.0)
    assert payer.spending.usd == 0.0


def test_all_agents_of_the_collection_stop_and_no_others(store: AnyStore) -> None:
    payer, other = Payer(store, Budget(usd=1.0), number=2), Payer(store, Budget(usd=9.0))
    for queue in (*payer.queues, other.queue):
        put(store, queue, [f"{queue}-{number}" for number in range(3)])
    payer.pay(claim(store, payer.worker, 2)[0], usd=1.0)
    assert claim(store, payer.worker) == []
    assert len(claim(store, other.worker, 3)) == 3


def test_a_higher_budget_goes_on(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0, tokens=7))
    put(store, payer.queue, "abc")
    payer.pay(payer.one_more(), usd=1.0)
    store.set_budget("collection", payer.collection, Budget(1.5, 7))
    assert not payer.depth.paused
    payer.pay(payer.one_more(), usd=0.5)
    assert claim(store, payer.worker) == []
    assert payer.spending == Spending("collection", payer.collection, Budget(1.5, 7), 1.5)


def test_a_lower_budget_stops_at_once(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=5.0))
    put(store, payer.queue, "abc")
    payer.pay(payer.one_more(), usd=1.0)
    store.set_budget("collection", payer.collection, Budget(0.5))
    assert claim(store, payer.worker) == []


def test_the_same_file_does_not_take_back_what_was_set(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "abc")
    payer.pay(payer.one_more(), usd=1.0)
    store.set_budget("collection", payer.collection, Budget(2.0))
    payer.declare(Budget(usd=1.0))
    assert payer.spending.cap == Budget(2.0)
    payer.declare(Budget(usd=3.0))
    assert payer.spending.cap == Budget(3.0)
    payer.declare(Budget())
    assert (payer.spending.cap, payer.spending.usd) == (Budget(), 1.0)
    assert len(claimed_after_lapse(store, payer.worker, 2)) == 2


def test_a_declared_budget_applies_to_what_was_spent_before(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=9.0))
    put(store, payer.queue, "abc")
    payer.pay(payer.one_more(), usd=1.0)
    payer.declare(Budget(usd=1.0))
    assert claim(store, payer.worker) == []
    payer.declare(Budget(usd=2.0))
    assert len(claimed_after_lapse(store, payer.worker, 2)) == 2


@sources_needed
def test_an_older_file_of_a_sender_changes_no_budget(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    newer = Source("f", "host:file", edited_us=2, config_us=2)
    payer.declare(Budget(usd=2.0), newer)
    payer.declare(Budget(usd=9.0), replace(newer, edited_us=1))
    assert payer.spending.cap == Budget(2.0)
    payer.declare(Budget(usd=9.0), replace(newer, edited_us=1, serves=True))
    assert payer.spending.cap == Budget(9.0)


def test_a_pause_by_hand_is_apart(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "abc")
    store.pause(collections=[payer.collection], paused=True)
    store.pause(collections=[payer.collection], paused=False)
    payer.pay(payer.one_more(), usd=1.0)
    store.pause(collections=[payer.collection], paused=True)
    store.pause(collections=[payer.collection], paused=False)
    assert claim(store, payer.worker) == []
    store.pause(collections=[payer.collection], paused=True)
    store.set_budget("collection", payer.collection, Budget(2.0))
    assert claim(store, payer.worker) == []
    store.pause(collections=[payer.collection], paused=False)
    assert len(claimed_after_lapse(store, payer.worker, 2)) == 2


def test_what_is_spent_outlives_all_who_knew_of_it(
    store: AnyStore, open_another: OpenStore
) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "abc")
    payer.pay(payer.one_more(), usd=1.0)
    store.leave(payer.worker)
    later = open_another()
    store.close()
    assert spending_of(later, "collection", payer.collection).is_spent
    assert claim(later, joined(later, payer.queues)) == []


def test_a_waiting_task_knows_the_spending(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "ab")
    payer.pay(payer.one_more(), usd=1.0)
    found = store.locate("b")
    agents = [it for it in (found.agent, *found.candidates) if it is not None]
    assert [it.spending for it in agents if it.queue == payer.queue] == [payer.spending]


def test_a_burst_does_not_wait_for_what_is_left(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "ab")
    (claimed,) = claim(store, payer.worker, 1)
    queues = frozenset(payer.queues)
    assert not is_done(store.stats(), queues)
    payer.pay(claimed, usd=1.0)
    taken = store.take_outbox(payer.worker, 1, 1_000)
    store.drop_outbox(payer.worker, [it.number for it in taken])
    wait_until(lambda: is_done(store.stats(), queues), PATIENCE_S, "nothing more can run")


@shared_queues_needed
@pytest.mark.long
def test_eight_processes_claim_nothing_after_the_settlement_that_spends_it(
    store: AnyStore, store_settings: Settings
) -> None:
    """Each process counts its claims that began after a shared counter reached the cap."""
    payer = Payer(store, Budget(usd=20.0), number=4)
    run = unique("run")
    store.set_budget("run", run, Budget(usd=1_000.0))
    for queue in payer.queues:
        put(store, queue, [f"{run}/{queue}-{number}" for number in range(100)])
    group, spent, found = SPAWN.Barrier(8), SPAWN.Value("d", 0.0), SPAWN.Queue()
    names = frozenset(payer.queues)
    processes = [
        SPAWN.Process(
            target=spend_until_nothing_comes,
            args=(store_settings, names, unique("worker")),
            kwargs={"group": group, "spent": spent, "found": found},
        )
        for _ in range(8)
    ]
    for each in processes:
        each.start()
    reports = [found.get(timeout=120) for _ in processes]
    for each in processes:
        each.join(60)
    paid = sum(number for number, _ in reports)
    late = sum(number for _, number in reports)
    assert late == 0
    assert payer.spending.usd == spending_of(store, "run", run).usd == paid
    assert 20 <= paid <= 20 + 8 * 2
    assert payer.spending.overshoot_usd == paid - 20


# Budgets of runs.


@ids_needed
def test_a_spent_run_gives_nothing_and_others_of_its_queue_go_on(store: AnyStore) -> None:
    payer = Payer(store, Budget())
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queue, [f"v1/{number}" for number in range(30)])
    put(store, payer.queue, ["v10/x", "plain", "v2/y"])
    first, second = claim(store, payer.worker, 2)
    payer.pay(first, usd=1.0)
    assert sorted(ids_of(claim(store, payer.worker))) == ["plain", "v10/x", "v2/y"]
    payer.pay(second, usd=0.5)
    assert spending_of(store, "run", "v1") == Spending("run", "v1", Budget(1.0), 1.5)
    assert claim(store, payer.worker) == []
    assert not payer.depth.paused


@ids_needed
def test_a_higher_budget_of_the_run_brings_its_tasks_back(store: AnyStore) -> None:
    payer = Payer(store, Budget())
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queue, [f"v1/{number}" for number in range(5)])
    payer.pay(payer.one_more(), usd=1.0)
    assert claim(store, payer.worker) == []
    put(store, payer.queue, ["v1/late"])
    assert claim(store, payer.worker) == []
    store.set_budget("run", "v1", Budget(usd=2.0))
    back = claimed_after_lapse(store, payer.worker, 5)
    assert sorted(ids_of(back)) == [*(f"v1/{number}" for number in range(1, 5)), "v1/late"]


@ids_needed
@pytest.mark.parametrize("action", ["retry", "release", "crash"])
def test_what_comes_back_of_a_spent_run_stays(store: AnyStore, action: str) -> None:
    payer = Payer(store, Budget())
    store.set_budget("run", "v1", Budget(tokens=10))
    put(store, payer.queue, ["v1/a", "v1/b"])
    first, second = claim(store, payer.worker, 2)
    payer.pay(first, tokens=10)
    payer.pay(second, action)
    assert claim(store, payer.worker) == []
    store.set_budget("run", "v1", Budget(tokens=11))
    assert ids_of(claimed_after_lapse(store, payer.worker, 1)) == ["v1/b"]


@ids_needed
def test_a_run_stops_over_all_collections(store: AnyStore) -> None:
    payer, other = Payer(store, Budget()), Payer(store, Budget())
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queue, ["v1/a", "v1/b"])
    put(store, other.queue, ["v1/c"])
    payer.pay(payer.one_more(), usd=1.0)
    assert claim(store, payer.worker) == claim(store, other.worker) == []


@ids_needed
@depths_needed
def test_tasks_of_a_spent_run_are_counted_cancelled_and_explained(store: AnyStore) -> None:
    payer = Payer(store, Budget())
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queue, [f"v1/{number}" for number in range(4)])
    payer.pay(payer.one_more(), usd=1.0)
    assert claim(store, payer.worker) == []
    depth = payer.depth
    assert (depth.waiting, depth.delayed, depth.parked) == (0, 3, 3)
    found = store.locate("v1/2")
    assert (found.place, found.due_at) == ("delayed", None)
    assert found.spending == spending_of(store, "run", "v1")
    taken = store.take_outbox(payer.worker, 1, 1_000)
    store.drop_outbox(payer.worker, [it.number for it in taken])
    assert is_done(store.stats(), frozenset(payer.queues))
    assert store.cancel(["v1/2"]) == ["waiting"]
    assert store.answer([Answer("v1/2", b"{}", "cancelled")]) == [True]
    assert (payer.depth.delayed, payer.depth.parked) == (2, 2)
    store.set_budget("run", "v1", Budget(usd=2.0))
    assert payer.depth.parked == 0
    assert len(claimed_after_lapse(store, payer.worker, 2)) == 2
    assert payer.depth.delayed == 0


@ids_needed
def test_parked_tasks_of_an_agent_that_left_move_and_stay_parked(store: AnyStore) -> None:
    payer = Payer(store, Budget(), number=2)
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queues[1], [f"v1/{number}" for number in range(3)])
    payer.pay(payer.one_more(), usd=1.0)
    assert claim(store, payer.worker) == []
    left = payer.queues.pop()
    payer.declare(Budget())
    assert store.move(payer.collection, [left], 10) == 2
    assert (payer.depth.delayed, payer.depth.parked) == (2, 2)
    assert claim(store, payer.worker) == []
    store.set_budget("run", "v1", Budget(usd=2.0))
    assert len(claimed_after_lapse(store, payer.worker, 2)) == 2
    assert payer.depth.parked == 0


@ids_needed
def test_more_tasks_of_a_spent_run_than_one_claim_looks_at_hide_no_others(store: AnyStore) -> None:
    payer = Payer(store, Budget())
    store.declare([Queue(payer.queue, payer.collection, 5_000, 100)])
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queue, [f"v1/{number}" for number in range(1_500)])
    put(store, payer.queue, ["other"])
    payer.pay(payer.one_more(), usd=1.0)
    assert ids_of(claimed_after_lapse(store, payer.worker, 1)) == ["other"]


@ids_needed
@pytest.mark.needs("spares_neighbours")
def test_a_suspect_of_a_spent_run_runs_later(store: AnyStore) -> None:
    payer = Payer(store, Budget())
    store.declare([Queue(payer.queue, payer.collection, concurrency=100, max_crashes=1)])
    store.set_budget("run", "v1", Budget(usd=1.0))
    put(store, payer.queue, ["v1/a", "v1/b", "v1/c"])
    (paying,) = claim(store, payer.worker, 1)
    claimed_and_left(store, payer.queue, 2)
    payer.pay(paying, usd=1.0)

    def are_parked() -> bool:
        assert claim(store, payer.worker) == []
        return payer.depth.parked == 2

    wait_until(are_parked, PATIENCE_S, "the suspects lie apart")
    store.set_budget("run", "v1", Budget(usd=2.0))
    payer.pay(payer.one_more())
    payer.pay(payer.one_more())


def test_settlements_of_one_batch_all_count(store: AnyStore) -> None:
    payer = Payer(store, Budget(usd=1.0))
    put(store, payer.queue, "abcd")
    claims = claim(store, payer.worker, 3)
    batch = [Settlement(each, "complete", b"{}", "ok", usd=0.4, tokens=7) for each in claims]
    assert all(store.settle(batch))
    assert (round(payer.spending.usd, 9), payer.spending.tokens) == (1.2, 21)
    assert claim(store, payer.worker) == []
