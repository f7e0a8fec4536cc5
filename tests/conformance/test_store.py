"""The promises of the Store seam, over every implementation in conftest."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import Answer, TaskQuery
from agentpipe.brokers.dead_letter import DeadFilter, DeadSummary
from agentpipe.brokers.records import (
    Admission,
    Claim,
    ClaimRequest,
    Offer,
    Queue,
    Settlement,
    Worker,
)
from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import OutboxLimits
from tests.conformance.pace import PACE
from tests.conformance.processes import (
    cancel_one_by_one,
    claim_and_answer,
    claim_until_cancelled,
    offer_one_by_one,
)
from tests.stores import ROOMY, claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.brokers.location import TaskLocation
    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

PATIENCE_S = 20.0
HOLD_S = 0.1
MEBIBYTE = 1024 * 1024
SPAWN = multiprocessing.get_context("spawn")

ids_needed = pytest.mark.needs("remembers_ids")
depths_needed = pytest.mark.needs("knows_depths")
dead_letters_needed = pytest.mark.needs("shares_dead_letters")
reading_needed = pytest.mark.needs("reads_tasks")
shared_queues_needed = pytest.mark.needs("shares_queues")


def unique(noun: str) -> str:
    return f"{noun}-{uuid.uuid4().hex[:8]}"


def offers(ids: Iterable[Any], **fields: Any) -> list[Offer]:
    return [Offer(str(task_id), f"payload of {task_id}".encode(), **fields) for task_id in ids]


def put(store: AnyStore, queue: str, ids: Iterable[Any], **fields: Any) -> Admission:
    return store.offer(queue, offers(ids, **fields), round_robin=False)


def declared(store: AnyStore, number: int = 1, **limits: Any) -> list[str]:
    """Declare queues outside any collection."""
    names = [unique("queue") for _ in range(number)]
    store.declare([Queue(name, **{"concurrency": 100, **limits}) for name in names])
    return names


def ring_of(store: AnyStore, number: int, **limits: Any) -> tuple[str, list[str]]:
    """Declare a collection."""
    collection = unique("ring")
    names = [f"{collection}_{index}" for index in range(number)]
    store.declare([Queue(name, collection, **{"concurrency": 100, **limits}) for name in names])
    return collection, names


def joined(store: AnyStore, queues: Iterable[str], lease_s: float = 60.0) -> Worker:
    worker = Worker(unique("worker"), slots=100, lease_s=lease_s, queues=frozenset(queues))
    store.join(worker)
    return worker


def claim(
    store: AnyStore,
    worker: Worker,
    limit: int = 100,
    *,
    outbox: OutboxLimits = ROOMY,
    held: int | None = None,
) -> list[Claim]:
    """What can be claimed, given a moment where the server has to push it first."""
    claims: list[Claim] = []
    ends = time.monotonic() + PACE.patience_s
    PACE.settle(store)
    while True:
        claims += store.claim(ClaimRequest(worker, limit - len(claims), outbox, held))
        if len(claims) >= limit or time.monotonic() >= ends:
            return claims
        PACE.rest()


def ids_of(records: Iterable[Any]) -> list[str]:
    return [record.task_id for record in records]


def claimed_and_left(store: AnyStore, queue: str, number: int = 1) -> tuple[Worker, list[Claim]]:
    """Claims of a worker that is never heard again."""
    worker = joined(store, [queue], PACE.lease_s)

    def attempt() -> list[Claim]:
        store.join(worker)
        claims = claim(store, worker, number)
        # On a busy machine the lease may have ended in the middle, and one come twice.
        return claims if len(set(ids_of(claims))) == len(claims) == number else []

    return worker, wait_until(attempt, PATIENCE_S, "a claim within a short lease")


def claimed_after_lapse(store: AnyStore, worker: Worker, number: int = 1) -> list[Claim]:
    claims: list[Claim] = []

    def attempt() -> bool:
        claims.extend(claim(store, worker))
        return len(claims) >= number

    wait_until(attempt, PATIENCE_S, "the lapsed worker's tasks are claimed again")
    return claims


def settle(store: AnyStore, claimed: Claim, action: Any, **fields: Any) -> bool:
    (done,) = store.settle([Settlement(claimed, action, **fields)])
    return done


def answered(store: AnyStore, claims: Sequence[Claim], result: bytes = b"{}") -> list[bool]:
    return store.settle([Settlement(each, "complete", result, "ok") for each in claims])


def balanced(store: AnyStore) -> Stats:
    """The ledger, which always adds up."""
    stats = store.stats()
    parts = (stats.waiting, stats.delayed, stats.running, stats.outbox, stats.delivered)
    assert stats.accepted == sum(part or 0 for part in parts), stats
    assert stats.waiting == sum(depth.waiting or 0 for depth in stats.queues)
    assert stats.delayed == sum(depth.delayed or 0 for depth in stats.queues)
    assert stats.running == sum(depth.running or 0 for depth in stats.queues)
    return stats


def depths(store: AnyStore) -> dict[str, QueueDepth]:
    return {depth.queue: depth for depth in balanced(store).queues}


# Declaring.


@depths_needed
def test_a_declared_queue_is_known_with_its_limits(store: AnyStore) -> None:
    name = unique("queue")
    store.declare([Queue(name, "crew", max_waiting=7, concurrency=3)])
    assert depths(store)[name] == QueueDepth(
        name, "crew", 0, 0, 0, limit=7, concurrency=3, cooldown_s=0.0
    )


def test_a_redeclared_bound_holds_from_then_on(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1)
    assert put(store, queue, ["a", "b"]).verdicts == ("accepted", "refused")
    store.declare([Queue(queue, max_waiting=2)])
    assert put(store, queue, ["b", "c"]).verdicts == ("accepted", "refused")
    store.declare([Queue(queue, max_waiting=1)])
    assert put(store, queue, ["c"]).verdicts == ("refused",)


def test_a_redeclared_concurrency_holds_from_then_on(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=1)
    put(store, queue, "abcd")
    worker = joined(store, [queue])
    assert len(claim(store, worker)) == 1
    store.declare([Queue(queue, concurrency=3)])
    assert len(claim(store, worker)) == 2


@depths_needed
def test_a_queue_that_left_its_ring_keeps_its_tasks_and_takes_none(store: AnyStore) -> None:
    ring, (first, second) = ring_of(store, 2)
    store.offer(ring, offers("abcd"), round_robin=True)
    store.declare([Queue(first, ring, concurrency=100)])
    assert store.offer(ring, offers("efgh"), round_robin=True).verdicts == ("accepted",) * 4
    assert depths(store)[second].waiting == 2
    assert depths(store)[first].waiting == 6
    assert sorted(ids_of(claim(store, joined(store, [second])))) == ["b", "d"]


def test_a_queue_that_returned_to_its_ring_takes_tasks_again(store: AnyStore) -> None:
    ring, (first, second) = ring_of(store, 2)
    store.declare([Queue(first, ring)])
    store.declare([Queue(first, ring), Queue(second, ring)])
    store.offer(ring, offers("ab"), round_robin=True)
    assert len(claim(store, joined(store, [second]))) == 1


def test_declaring_a_ring_leaves_others_as_they_are(store: AnyStore) -> None:
    ring, _ = ring_of(store, 2)
    ring_of(store, 3)
    assert store.offer(ring, offers("ab"), round_robin=True).verdicts == ("accepted",) * 2


def test_queues_in_another_order_make_a_ring_of_the_same_queues(store: AnyStore) -> None:
    ring, names = ring_of(store, 3, max_waiting=1)
    store.declare([Queue(name, ring, max_waiting=1) for name in reversed(names)])
    assert store.offer(ring, offers("abcd"), round_robin=True).verdicts.count("accepted") == 3


def test_declaring_again_what_is_known_wakes_nobody(
    store: AnyStore, open_another: OpenStore
) -> None:
    ring, names = ring_of(store, 2)
    store.declare([Queue(names[0], ring)])
    other = open_another()
    store.wait(0)
    other.declare([Queue(names[0], ring)])
    begun = time.monotonic()
    store.wait(0.1)
    assert time.monotonic() - begun >= 0.09


# Offering.


def test_a_ring_is_offered_round_robin(store: AnyStore) -> None:
    ring, names = ring_of(store, 3)
    store.offer(ring, offers(range(7)), round_robin=True)
    shares = [sorted(ids_of(claim(store, joined(store, [name])))) for name in names]
    assert shares == [["0", "3", "6"], ["1", "4"], ["2", "5"]]


def test_round_robin_goes_on_between_calls_and_senders(
    store: AnyStore, open_another: OpenStore
) -> None:
    ring, names = ring_of(store, 3)
    senders = [store, open_another(), open_another()]
    for index in range(9):
        senders[index % 3].offer(ring, offers([index, f"{index}'"]), round_robin=True)
    shares = [len(claim(store, joined(store, [name]))) for name in names]
    assert shares == [6, 6, 6]


def test_full_queues_are_passed_over(store: AnyStore) -> None:
    ring, names = ring_of(store, 3, max_waiting=2)
    put(store, names[1], "xy")
    assert store.offer(ring, offers("abcd"), round_robin=True).verdicts == ("accepted",) * 4
    assert sorted(ids_of(claim(store, joined(store, [names[0]])))) == ["a", "c"]
    assert sorted(ids_of(claim(store, joined(store, [names[2]])))) == ["b", "d"]


def test_where_all_are_full_the_rest_is_refused_with_depth_and_bound(store: AnyStore) -> None:
    ring, _ = ring_of(store, 2, max_waiting=2)
    admission = store.offer(ring, offers("abcdef"), round_robin=True)
    assert admission == Admission(("accepted",) * 4 + ("refused",) * 2, depth=4, bound=4)


def test_one_full_queue_refuses_with_its_own_depth_and_bound(store: AnyStore) -> None:
    _, (first, _) = ring_of(store, 2, max_waiting=3)
    admission = put(store, first, "abcd")
    assert admission == Admission(("accepted",) * 3 + ("refused",), depth=3, bound=3)


def test_what_is_refused_is_not_stored_and_may_come_again(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    assert ids_of(claim(store, worker)) == ["a"]
    assert put(store, queue, "b").verdicts == ("accepted",)
    assert ids_of(claim(store, worker)) == ["b"]


def test_an_unknown_target_refuses_with_a_bound_of_nothing(store: AnyStore) -> None:
    assert put(store, unique("nowhere"), "a") == Admission(("refused",), 0, 0)
    ring = store.offer(unique("nowhere"), offers("a"), round_robin=True)
    assert ring == Admission(("refused",), 0, 0)


def test_no_offers_are_admitted_as_nothing(store: AnyStore) -> None:
    ring, _ = ring_of(store, 1)
    assert store.offer(ring, [], round_robin=True).verdicts == ()


@ids_needed
def test_an_id_is_accepted_once_within_a_batch(store: AnyStore) -> None:
    ring, names = ring_of(store, 2)
    verdicts = store.offer(ring, offers("abab"), round_robin=True).verdicts
    assert verdicts == ("accepted", "accepted", "duplicate", "duplicate")
    assert sorted(ids_of(claim(store, joined(store, names)))) == ["a", "b"]


@ids_needed
def test_an_id_is_accepted_once_while_it_lives(store: AnyStore) -> None:
    _, (first, second) = ring_of(store, 2)
    put(store, first, "w")
    put(store, first, "d", delay_s=60)
    put(store, second, "r")
    claim(store, joined(store, [second]))
    assert put(store, second, "wdr").verdicts == ("duplicate",) * 3


@ids_needed
def test_a_duplicate_is_no_refusal_though_the_queue_is_full(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1)
    assert put(store, queue, "ab").verdicts == ("accepted", "refused")
    assert put(store, queue, "ab").verdicts == ("duplicate", "refused")


@ids_needed
def test_a_settled_id_is_a_duplicate(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    answered(store, claim(store, joined(store, [queue]), 2))
    assert store.answer([Answer("c", b"{}", "cancelled")]) == [True]
    assert put(store, queue, "abc").verdicts == ("duplicate",) * 3


@ids_needed
def test_a_settled_id_is_forgotten_after_the_retention_time(open_another: OpenStore) -> None:
    forgetful = open_another(retention_s=0.05)
    (queue,) = declared(forgetful)
    put(forgetful, queue, ["settled", "living"])
    worker = joined(forgetful, [queue])
    answered(forgetful, claim(forgetful, worker, 1))

    def accepted_again() -> bool:
        # A store forgets at its leisure, and a young one looks sooner.
        sweeper = open_another(retention_s=0.05)
        claim(sweeper, worker, 1)
        return put(sweeper, queue, ["settled"]).verdicts == ("accepted",)

    wait_until(accepted_again, PATIENCE_S, "the settled id is accepted again")
    assert put(forgetful, queue, ["living"]).verdicts == ("duplicate",)
    balanced(forgetful)


def test_the_bound_is_exact_with_eight_processes_offering_at_once(
    store: AnyStore, store_settings: Settings
) -> None:
    ring, names = ring_of(store, 2, max_waiting=25)
    gate, verdicts = SPAWN.Barrier(8), SPAWN.Queue()
    senders = [
        SPAWN.Process(
            target=offer_one_by_one,
            args=(store_settings, ring, [f"{sender}-{n}" for n in range(20)], gate, verdicts),
            daemon=True,
        )
        for sender in range(8)
    ]
    for sender in senders:
        sender.start()
    total: Counter[str] = Counter()
    for _ in senders:
        total.update(verdicts.get(timeout=60))
    for sender in senders:
        sender.join(30)
    assert total == {"accepted": 50, "refused": 110}
    waiting = [len(claim(store, joined(store, [name]))) for name in names]
    assert waiting == [25, 25]


# Priorities and delays.


def test_lower_priorities_are_claimed_first_and_equals_in_order(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, ["e", "f"], priority=9)
    put(store, queue, ["c", "d"])
    put(store, queue, ["a", "b"], priority=-9)
    worker = joined(store, [queue])
    order = [ids_of(claim(store, worker, 1))[0] for _ in range(6)]
    assert order == ["a", "b", "c", "d", "e", "f"]


@depths_needed
def test_a_delayed_task_waits_until_its_delay_is_over(store: AnyStore) -> None:
    (queue,) = declared(store)
    due = time.monotonic() + 0.15
    put(store, queue, ["late"], delay_s=0.15)
    put(store, queue, ["never"], delay_s=3600)
    assert depths(store)[queue].delayed == 2
    worker = joined(store, [queue])
    claims = claimed_after_lapse(store, worker)
    assert time.monotonic() >= due - 0.01
    assert ids_of(claims) == ["late"]
    assert (depths(store)[queue].delayed, depths(store)[queue].running) == (1, 1)


def test_delayed_tasks_do_not_count_against_the_bound(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=2)
    put(store, queue, ["late"], delay_s=3600)
    assert put(store, queue, "ab").verdicts == ("accepted", "accepted")


# Claiming.


def test_a_claim_tells_all_about_the_task(store: AnyStore) -> None:
    (queue,) = declared(store)
    before = time.time()
    put(store, queue, ["a"])
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    assert (claimed.task_id, claimed.queue, claimed.payload) == ("a", queue, b"payload of a")
    assert (claimed.worker, claimed.failures, claimed.crashes) == (worker.name, 0, 0)
    assert before - 0.01 <= claimed.submitted_at <= time.time() + 0.01


def test_a_claim_is_never_larger_than_asked_for(store: AnyStore) -> None:
    names = declared(store, 3)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(5)])
    worker = joined(store, names)
    assert [len(claim(store, worker, limit)) for limit in (1, 2, 7, 100)] == [1, 2, 7, 5]


@shared_queues_needed
def test_a_task_is_claimed_by_one_worker(store: AnyStore, open_another: OpenStore) -> None:
    (queue,) = declared(store, max_waiting=200)
    put(store, queue, range(100))
    connections = [store, open_another(), open_another()]
    workers = [joined(store, [queue]) for _ in connections]
    found: Counter[str] = Counter()
    for turn in range(30):
        at = turn % 3
        found.update(ids_of(claim(connections[at], workers[at], 4)))
    assert found == {str(index): 1 for index in range(100)}


@shared_queues_needed
def test_claims_never_exceed_the_concurrency_over_all_workers(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store, concurrency=3)
    put(store, queue, range(10))
    other = open_another()
    one, two = joined(store, [queue]), joined(store, [queue])
    claims = claim(store, one, 2) + claim(other, two, 2)
    assert len(claims) == 3
    assert claim(store, one) == []
    settle(store, claims[0], "retry", delay_s=60)
    settle(store, claims[1], "release")
    settle(store, claims[2], "complete", result=b"{}", outcome="ok")
    assert len(claim(store, one, 2) + claim(other, two, 2)) == 3


def run_by_four_processes(
    settings: Settings, queues: Iterable[str], total: int
) -> list[tuple[str, float, float, str]]:
    """What four workers claimed and answered, each task once: queue, begin, end and id."""
    gate, left, claimed = SPAWN.Barrier(4), SPAWN.Value("i", total), SPAWN.Queue()
    processes = [
        SPAWN.Process(
            target=claim_and_answer,
            args=(settings, frozenset(queues), f"worker-{index}"),
            kwargs={"gate": gate, "left": left, "claimed": claimed},
            daemon=True,
        )
        for index in range(4)
    ]
    for process in processes:
        process.start()
    held = sorted(entry for _ in processes for entry in claimed.get(timeout=60))
    for process in processes:
        process.join(30)
    assert len({task_id for *_, task_id in held}) == len(held) == total
    return held


def test_one_run_at_a_time_over_four_processes(store: AnyStore, store_settings: Settings) -> None:
    queues = declared(store, 2, concurrency=1)
    for queue in queues:
        put(store, queue, [f"{queue}-{index}" for index in range(40)])
    held = run_by_four_processes(store_settings, queues, 80)
    for (queue, _, ended, _), (next_queue, begun, _, _) in pairwise(held):
        assert queue != next_queue or ended <= begun


def test_a_claim_is_fair_over_queues(store: AnyStore) -> None:
    names = declared(store, 4)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(20)])
    worker = joined(store, names)
    shares = Counter(each.queue for each in claim(store, worker, 20))
    assert shares == dict.fromkeys(names, 5)
    singles = Counter(claim(store, worker, 1)[0].queue for _ in range(20))
    assert singles == dict.fromkeys(names, 5)


def test_a_busy_queue_does_not_starve_a_small_one(store: AnyStore) -> None:
    busy, small = declared(store, 2)
    put(store, busy, range(90))
    worker = joined(store, [busy, small])
    claim(store, worker, 5)
    put(store, small, ["small"])
    assert "small" in ids_of(claim(store, worker, 2))


def test_only_served_queues_are_claimed(store: AnyStore) -> None:
    served, other = declared(store, 2)
    put(store, served, ["mine"])
    put(store, other, ["theirs"])
    assert ids_of(claim(store, joined(store, [served]))) == ["mine"]
    assert claim(store, joined(store, [])) == []


def test_a_worker_that_never_joined_claims_nothing(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    assert claim(store, Worker(unique("stranger"), queues=frozenset([queue]))) == []


def test_nothing_is_claimed_above_the_high_water_mark_of_records(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abcd")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 2))
    assert claim(store, worker, outbox=OutboxLimits(2, 10**9)) == []
    assert len(claim(store, worker, 1, outbox=OutboxLimits(3, 10**9))) == 1
    (first, _) = store.take_outbox(worker, 10, MEBIBYTE)
    assert claim(store, worker, outbox=OutboxLimits(2, 10**9)) == []
    store.drop_outbox(worker, [first.number])
    assert len(claim(store, worker, 1, outbox=OutboxLimits(2, 10**9))) == 1


def test_nothing_is_claimed_above_the_high_water_mark_of_bytes(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    answered(store, claim(store, worker, 1), b"x" * 1000)
    assert claim(store, worker, outbox=OutboxLimits(10**6, 1000)) == []
    assert len(claim(store, worker, 1, outbox=OutboxLimits(10**6, 1001))) == 1


# Leases.


def test_a_lapsed_workers_task_is_anothers_with_one_crash_more(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    _, (lost,) = claimed_and_left(store, queue)
    worker = joined(store, [queue])
    (found,) = claimed_after_lapse(store, worker)
    assert (found.task_id, found.crashes - lost.crashes, found.failures) == ("a", 1, 0)
    assert (found.worker, found.payload) == (worker.name, lost.payload)
    assert found.number != lost.number


def test_each_lapse_counts_one_crash(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    crashes = []
    for _ in range(3):
        _, (claimed,) = claimed_and_left(store, queue)
        crashes.append(claimed.crashes)
    assert crashes == sorted(set(crashes))
    assert claimed_after_lapse(store, joined(store, [queue]))[0].crashes == crashes[-1] + 1


def test_a_worker_that_says_what_it_holds_leaves_the_others_their_share(store: AnyStore) -> None:
    queues = declared(store, 4, concurrency=1)
    for queue in queues:
        put(store, queue, [queue])
    one, other = (joined(store, queues) for _ in range(2))
    assert len(claim(store, one, held=0)) == 2
    assert claim(store, one, held=2) == []
    assert len(claim(store, other, held=0)) == 2
    store.leave(other)
    assert len(claim(store, one, held=2)) == 2


@shared_queues_needed
def test_tasks_in_their_last_chance_do_not_share_a_worker(store: AnyStore) -> None:
    one, other = declared(store, 2, max_crashes=2)
    put(store, one, ["killer", "beside it"])
    claimed_and_left(store, one, 2)
    worker, second = (joined(store, [one, other]) for _ in range(2))
    (alone,) = claimed_after_lapse(store, worker)
    put(store, other, ["fresh"])
    assert ids_of(claim(store, worker)) == ["fresh"]
    (beside,) = claim(store, second)
    assert {alone.task_id, beside.task_id} == {"killer", "beside it"}
    settle(store, beside, "release")
    settle(store, alone, "complete", result=b"{}", outcome="ok")
    assert ids_of(claim(store, worker)) == [beside.task_id]


def test_after_a_lapse_the_old_worker_neither_extends_nor_settles(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    old, (lost,) = claimed_and_left(store, queue)
    (found,) = claimed_after_lapse(store, joined(store, [queue]))
    assert store.heartbeat(old) is False
    for action in ("complete", "bury", "retry", "release"):
        assert settle(store, lost, action, result=b"late", outcome="ok") is False
    assert store.take_outbox(joined(store, []), 10, MEBIBYTE) == []
    assert listed(store) == []
    assert settle(store, found, "complete", result=b"{}", outcome="ok") is True


def test_an_old_claim_is_lost_though_its_worker_came_back_and_claimed_again(
    store: AnyStore,
) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    old, (lost,) = claimed_and_left(store, queue)
    other = joined(store, [queue])
    settle(store, claimed_after_lapse(store, other)[0], "release")
    store.leave(other)
    again = replace(old, lease_s=60.0)
    store.join(again)
    (found,) = claim(store, again)
    assert settle(store, lost, "complete", result=b"late", outcome="ok") is False
    assert settle(store, found, "complete", result=b"{}", outcome="ok") is True


def test_a_worker_that_extends_keeps_its_tasks(store: AnyStore, open_another: OpenStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    lease_s = max(0.6, PACE.lease_s)  # A busy machine may keep a test from extending for a moment.
    keeper = joined(store, [queue], 2.5 * lease_s)
    assert store.heartbeat(keeper)
    (claimed,) = claim(store, keeper, 1)
    second, ends = open_another(), time.monotonic() + 6 * lease_s
    other = joined(second, [queue])
    while time.monotonic() < ends:
        assert store.heartbeat(keeper)
        assert claim(second, other) == []
    assert settle(store, claimed, "complete", result=b"{}", outcome="ok")


@shared_queues_needed
def test_a_worker_holds_one_task_in_its_last_chance_at_a_time(store: AnyStore) -> None:
    (queue,) = declared(store, max_crashes=2)
    put(store, queue, "ab")
    claimed_and_left(store, queue, 2)
    one, two = joined(store, [queue]), joined(store, [queue])
    (first,) = claimed_after_lapse(store, one)
    assert first.crashes == 1
    put(store, queue, "c")
    assert ids_of(claim(store, one)) == ["c"]
    assert claim(store, one) == []
    (second,) = claim(store, two)
    assert {first.task_id, second.task_id} == {"a", "b"}
    assert settle(store, second, "release")
    assert claim(store, one) == []
    assert settle(store, first, "complete", result=b"{}", outcome="ok")
    assert ids_of(claim(store, one)) == [second.task_id]


@depths_needed
def test_the_ledger_holds_over_a_lapse(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    claimed_and_left(store, queue, 2)
    assert balanced(store).accepted == 3
    claimed_after_lapse(store, joined(store, [queue]), 3)
    assert depths(store)[queue].running == 3


def test_a_worker_that_leaves_gives_back_uncounted(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    (first, _) = claim(store, worker)
    settle(store, first, "retry")
    (first,) = claimed_after_lapse(store, worker)
    assert store.leave(worker) == 2
    assert store.leave(worker) == 0
    again = {each.task_id: each for each in claim(store, joined(store, [queue]))}
    assert (again["a"].failures, again["a"].crashes) == (1, 0)
    assert (again["b"].failures, again["b"].crashes) == (0, 0)
    assert settle(store, first, "complete", result=b"{}", outcome="ok") is False


def test_a_worker_that_left_claims_nothing_and_does_not_extend(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    store.leave(worker)
    assert store.heartbeat(worker) is False
    assert claim(store, worker) == []


# Settling.


@depths_needed
def test_an_answer_goes_to_the_outbox_and_the_task_is_gone(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    assert settle(store, claimed, "complete", result=b'{"x":1}', outcome="ok")
    stats = balanced(store)
    assert (stats.accepted, stats.running, stats.outbox, stats.outbox_bytes) == (1, 0, 1, 7)
    assert stats.outcomes == {"ok": 1}
    (record,) = store.take_outbox(worker, 10, MEBIBYTE)
    assert (record.task_id, record.payload) == ("a", b'{"x":1}')
    assert claim(store, worker) == []
    assert listed(store) == []


@dead_letters_needed
@depths_needed
def test_a_burial_answers_and_keeps_the_task_as_it_was_sent(store: AnyStore) -> None:
    ring, (queue,) = ring_of(store, 1)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    before = time.time()
    assert settle(
        store, claimed, "bury", result=b'{"bad":1}', outcome="infra_error", reason="no luck"
    )
    stats = balanced(store)
    assert (stats.dead, stats.outbox, stats.outcomes) == (1, 1, {"infra_error": 1})
    (letter,) = store.read_dead(["a", "strange"])
    assert (letter.task_id, letter.queue, letter.collection) == ("a", queue, ring)
    assert (letter.payload, letter.result) == (b"payload of a", b'{"bad":1}')
    assert (letter.outcome, letter.reason) == ("infra_error", "no luck")
    assert before - 0.01 <= letter.died_at <= time.time() + 0.01
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["a"]


@depths_needed
def test_a_retry_waits_for_its_delay_with_one_failure_more(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    due = time.monotonic() + 0.1
    assert settle(store, claimed, "retry", delay_s=0.1)
    stats = balanced(store)
    assert (stats.delayed, stats.running, stats.outbox) == (1, 0, 0)
    (again,) = claimed_after_lapse(store, worker)
    assert time.monotonic() >= due - 0.01
    assert (again.failures, again.crashes, again.payload) == (1, 0, b"payload of a")


@depths_needed
def test_a_release_puts_back_uncounted_and_in_its_old_place(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "release")
    stats = balanced(store)
    assert (stats.waiting, stats.running) == (2, 0)
    (again,) = claim(store, worker, 1)
    assert (again.task_id, again.failures, again.crashes) == ("a", 0, 0)


@pytest.mark.needs("answers_at_once")
def test_what_came_back_counts_against_the_bound(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1)
    put(store, queue, "a")
    (claimed,) = claim(store, joined(store, [queue]))
    assert settle(store, claimed, "release")
    assert put(store, queue, "b").verdicts == ("refused",)


def test_what_comes_back_is_never_refused(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=2)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    released, retried = claim(store, worker)
    assert put(store, queue, "cd").verdicts == ("accepted", "accepted")
    assert settle(store, released, "release")
    assert settle(store, retried, "retry")
    found = claimed_after_lapse(store, worker, 4)
    assert sorted(ids_of(found)) == ["a", "b", "c", "d"]


@depths_needed
def test_settling_twice_does_nothing_the_second_time(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    (claimed,) = claim(store, joined(store, [queue]))
    settlement = Settlement(claimed, "complete", b"{}", "ok")
    assert store.settle([settlement, settlement]) == [True, False]
    assert store.settle([settlement]) == [False]
    assert balanced(store).outbox == 1


@depths_needed
def test_a_batch_is_settled_one_by_one_and_in_order(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abcde")
    worker = joined(store, [queue])
    claims = {each.task_id: each for each in claim(store, worker)}
    strange = replace(claims["e"], number=claims["e"].number + 7)
    assert store.settle(
        [
            Settlement(claims["a"], "complete", b"1", "ok"),
            Settlement(strange, "complete", b"no", "ok"),
            Settlement(claims["b"], "bury", b"2", "crashed", "it died"),
            Settlement(claims["c"], "retry", delay_s=60),
            Settlement(claims["d"], "release"),
        ]
    ) == [True, False, True, True, True]
    stats = balanced(store)
    assert (stats.waiting, stats.delayed, stats.running, stats.outbox) == (1, 1, 1, 2)
    assert stats.outcomes == {"ok": 1, "crashed": 1}


def test_what_was_settled_can_be_made_durable(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    answered(store, claim(store, joined(store, [queue])))
    store.sync()
    store.sync()


def test_a_claim_of_no_task_settles_as_lost(store: AnyStore) -> None:
    strange = Claim("never-offered", "nowhere", b"", "nobody", 1)
    assert settle(store, strange, "complete", result=b"{}", outcome="ok") is False


# Holds.


def held_after_a_claim(store: AnyStore, queue: str, delay_s: float) -> tuple[Worker, Claim]:
    """A worker whose run of the queue's first task was told to come back later."""
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    assert settle(store, claimed, "cooldown", delay_s=delay_s)
    return worker, claimed


def test_a_hold_puts_back_uncounted_and_the_queue_waits_for_its_end(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=1)
    put(store, queue, "ab")
    due = time.monotonic() + 2 * HOLD_S
    worker, _ = held_after_a_claim(store, queue, 2 * HOLD_S)
    (again,) = claimed_after_lapse(store, worker)
    assert time.monotonic() >= due - 0.01
    assert (again.task_id, again.failures, again.crashes) == ("a", 0, 0)
    answered(store, [again])
    assert ids_of(claimed_after_lapse(store, worker)) == ["b"]


@depths_needed
def test_a_held_queues_tasks_count_as_waiting(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    assert depths(store)[queue].cooldown_s == 0
    worker, _ = held_after_a_claim(store, queue, 60)
    depth = depths(store)[queue]
    assert (depth.waiting, depth.delayed, depth.running) == (2, 0, 0)
    assert 50 < (depth.cooldown_s or 0) <= 60
    assert claim(store, worker) == []


def test_a_hold_is_told_as_far_as_it_is_known(store: AnyStore) -> None:
    held, other = declared(store, 2)
    put(store, held, "a")
    held_after_a_claim(store, held, 60)
    seen = {depth.queue: depth.cooldown_s for depth in store.stats().queues}
    assert 50 < (seen[held] or 0) <= 60
    assert seen[other] == 0


def test_a_hold_holds_for_all_workers_and_only_its_queue(
    store: AnyStore, open_another: OpenStore
) -> None:
    held, sibling = ring_of(store, 2)[1]
    put(store, held, "ab")
    held_after_a_claim(store, held, 60)
    put(store, held, "c")
    put(store, sibling, "d")
    other = open_another()
    assert claim(other, joined(other, [held])) == []
    assert ids_of(claim(store, joined(store, [held, sibling]))) == ["d"]


def test_a_hold_outlives_the_worker_that_asked_for_it(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    other = open_another()
    second = joined(other, [queue])
    first = joined(store, [queue])
    claims = claim(store, first, 1) or claim(other, second, 1)
    holder, heir = (store, first), (other, second)
    if claims[0].worker == second.name:
        holder, heir = heir, holder
    assert settle(holder[0], claims[0], "cooldown", delay_s=60)
    holder[0].leave(holder[1])
    assert claim(heir[0], heir[1]) == []


def test_the_longest_of_several_holds_counts(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    first, second = claim(store, worker, 2)
    assert settle(store, first, "cooldown", delay_s=60)
    assert settle(store, second, "cooldown", delay_s=0.01)
    assert claim(store, worker) == []


def test_a_run_that_goes_on_during_a_hold_is_settled_as_usual(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    worker = joined(store, [queue])
    first, second = claim(store, worker, 2)
    assert settle(store, first, "cooldown", delay_s=60)
    assert answered(store, [second]) == [True]
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["b"]


def test_the_hold_of_a_lost_claim_holds_nothing(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    answered(store, [claimed])
    assert settle(store, claimed, "cooldown", delay_s=60) is False
    put(store, queue, "b")
    assert ids_of(claim(store, worker)) == ["b"]


# Gates.


def gated(store: AnyStore, number: int, limit: int, **limits: Any) -> list[str]:
    """Declare queues that share a gate."""
    gate = unique("gate")
    names = [f"{unique('queue')}-{index}" for index in range(number)]
    declare_gated(store, names, gate, limit, **limits)
    return names


def declare_gated(
    store: AnyStore, names: Iterable[str], gate: str | None, limit: int, **limits: Any
) -> None:
    wide = {"concurrency": 100, **limits}
    store.declare(
        [
            Queue(name, concurrency_group=gate, concurrency_group_limit=limit, **wide)
            for name in names
        ]
    )


def test_a_gate_lets_no_more_through_than_its_limit_within_one_claim(store: AnyStore) -> None:
    names = gated(store, 4, 3)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(5)])
    worker = joined(store, names)
    claims = claim(store, worker)
    assert len(claims) == 3
    assert len({each.queue for each in claims}) == 3
    assert claim(store, worker) == []


def test_a_gate_has_room_for_more_of_one_queue(store: AnyStore) -> None:
    names = gated(store, 2, 3)
    put(store, names[0], "abcde")
    worker = joined(store, names)
    assert len(claim(store, worker)) + len(claim(store, worker)) == 3


@shared_queues_needed
def test_a_gate_holds_over_all_workers(store: AnyStore, open_another: OpenStore) -> None:
    names = gated(store, 3, 2)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(3)])
    other = open_another()
    one, two = joined(store, names), joined(store, names)
    assert len(claim(store, one, 1) + claim(other, two, 5)) == 2
    assert claim(store, one) == claim(other, two) == []


def test_queues_beside_a_full_gate_go_on(store: AnyStore) -> None:
    names, (free,) = gated(store, 2, 1), declared(store)
    for name in (*names, free):
        put(store, name, [f"{name}-{index}" for index in range(2)])
    worker = joined(store, [*names, free])
    shares = Counter(each.queue for each in (*claim(store, worker), *claim(store, worker)))
    assert shares[free] == 2
    assert shares[names[0]] + shares[names[1]] == 1


@pytest.mark.parametrize("action", ["complete", "bury", "retry", "release", "cooldown"])
def test_a_settlement_frees_a_gate_for_its_other_queues(store: AnyStore, action: str) -> None:
    names = gated(store, 2, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    (first,) = claim(store, worker)
    assert settle(store, first, action, result=b"{}", outcome="ok", delay_s=60)
    (second,) = claim(store, worker)
    assert {first.queue, second.queue} == set(names)


def test_a_worker_that_leaves_frees_a_gate(store: AnyStore) -> None:
    names = gated(store, 2, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    assert len(claim(store, worker)) == 1
    store.leave(worker)
    assert len(claim(store, joined(store, names))) == 1


def test_a_lapse_frees_a_gate(store: AnyStore) -> None:
    names = gated(store, 2, 1)
    put(store, names[0], "a")
    claimed_and_left(store, names[0])
    put(store, names[1], "b")
    worker = joined(store, names)
    first = claimed_after_lapse(store, worker)
    assert len(first) == 1
    answered(store, first)
    second = claimed_after_lapse(store, worker)
    assert {*ids_of(first), *ids_of(second)} == {"a", "b"}


def test_a_gate_is_fair_to_its_queues(store: AnyStore) -> None:
    names = gated(store, 3, 1)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(4)])
    worker = joined(store, names)
    order = []
    for _ in range(12):
        (claimed,) = claim(store, worker, 1)
        answered(store, [claimed])
        order.append(claimed.queue)
    assert all(set(order[at : at + 3]) == set(names) for at in range(0, 12, 3))


def test_gates_do_not_delay_each_others_turns(store: AnyStore) -> None:
    one, two, (free,) = gated(store, 2, 1), gated(store, 2, 1), declared(store, concurrency=1)
    names = [*one, *two, free]
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(4)])
    worker = joined(store, names)
    served: Counter[str] = Counter()
    for _ in range(4):
        claims = claim(store, worker, 3)
        served.update(each.queue for each in claims)
        answered(store, claims)
    assert served == dict.fromkeys([*one, *two], 2) | {free: 4}


def test_a_redeclared_gate_limit_holds_from_then_on(store: AnyStore) -> None:
    names, gate = [f"{unique('queue')}-{index}" for index in range(4)], unique("gate")
    declare_gated(store, names, gate, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    first = claim(store, worker)
    assert len(first) == 1
    declare_gated(store, names, gate, 3)
    second = claim(store, worker, 2)
    assert len(second) == 2
    declare_gated(store, names, gate, 1)
    answered(store, [*first, *second])
    assert len(claim(store, worker)) == 1


def test_a_queue_may_leave_its_gate(store: AnyStore) -> None:
    names, gate = [f"{unique('queue')}-{index}" for index in range(2)], unique("gate")
    declare_gated(store, names, gate, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    (first,) = claim(store, worker)
    assert claim(store, worker) == []
    declare_gated(store, set(names) - {first.queue}, None, 1)
    (second,) = claimed_after_lapse(store, worker)
    answered(store, [first, second])
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == [first.task_id, second.task_id]


@shared_queues_needed
def test_wait_returns_when_a_gate_is_freed_for_another_queue(
    store: AnyStore, open_another: OpenStore
) -> None:
    one, two = gated(store, 2, 1)
    for name in (one, two):
        put(store, name, [name])
    first, other = joined(store, [one]), open_another()
    (running,) = claim(store, first)
    second = joined(other, [two])
    other.wait(0)
    assert claim(other, second) == []
    other.wait(0)
    settle(store, running, "complete", result=b"{}", outcome="ok")
    begun = time.monotonic()
    other.wait(30)
    assert time.monotonic() - begun < 10
    assert ids_of(claim(other, second)) == [two]


def test_a_gate_of_one_over_four_processes(store: AnyStore, store_settings: Settings) -> None:
    queues = gated(store, 3, 1)
    for queue in queues:
        put(store, queue, [f"{queue}-{index}" for index in range(20)])
    held = run_by_four_processes(store_settings, queues, 60)
    runs = sorted((begun, ended) for _, begun, ended, _ in held)
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(runs))


# The outbox.


def outbox_of(store: AnyStore, ids: Iterable[str], size: int = 2) -> Worker:
    """A worker, and results of these tasks in the outbox."""
    (queue,) = declared(store)
    worker = joined(store, [queue])
    for task_id in ids:
        put(store, queue, [task_id])
        answered(store, claim(store, worker), b"x" * size)
    return worker


def test_the_outbox_is_lent_oldest_first_and_once(store: AnyStore, open_another: OpenStore) -> None:
    worker, other = outbox_of(store, "abcde"), open_another()
    first = store.take_outbox(worker, 2, MEBIBYTE)
    second = other.take_outbox(joined(other, []), 10, MEBIBYTE)
    assert (ids_of(first), ids_of(second)) == (["a", "b"], ["c", "d", "e"])
    assert store.take_outbox(worker, 10, MEBIBYTE) == []


@depths_needed
def test_dropped_records_count_as_delivered(store: AnyStore) -> None:
    worker = outbox_of(store, "abc")
    first, second, _ = store.take_outbox(worker, 10, MEBIBYTE)
    store.drop_outbox(worker, [first.number, second.number])
    stats = balanced(store)
    assert (stats.outbox, stats.outbox_bytes, stats.delivered) == (1, 2, 2)
    store.drop_outbox(worker, [first.number])
    assert balanced(store).delivered == 2


def test_the_records_of_a_worker_that_left_are_lent_to_others(store: AnyStore) -> None:
    worker = outbox_of(store, "ab")
    store.take_outbox(worker, 10, MEBIBYTE)
    store.leave(worker)
    assert ids_of(store.take_outbox(joined(store, []), 10, MEBIBYTE)) == ["a", "b"]


def test_the_records_of_a_lapsed_worker_are_lent_to_others(store: AnyStore) -> None:
    outbox_of(store, "ab")
    silent, other = joined(store, [], PACE.lease_s), joined(store, [])

    def taken() -> list[Any]:
        store.join(silent)
        return store.take_outbox(silent, 10, MEBIBYTE)

    lent = wait_until(taken, PATIENCE_S, "the silent worker takes the outbox")
    found: list[Any] = wait_until(
        lambda: store.take_outbox(other, 10, MEBIBYTE), PATIENCE_S, "the outbox is lent again"
    )
    assert ids_of(found) == ["a", "b"]
    store.drop_outbox(silent, [record.number for record in lent])
    store.leave(other)
    assert len(store.take_outbox(joined(store, []), 10, MEBIBYTE)) == 2


def test_a_worker_that_is_no_longer_known_is_lent_nothing(store: AnyStore) -> None:
    worker = outbox_of(store, "a")
    store.leave(worker)
    assert store.take_outbox(worker, 10, MEBIBYTE) == []
    assert len(store.take_outbox(joined(store, []), 10, MEBIBYTE)) == 1


def test_as_many_records_are_lent_as_fit_and_at_least_one(store: AnyStore) -> None:
    worker = outbox_of(store, "abcd", size=100)
    assert ids_of(store.take_outbox(worker, 10, 250)) == ["a", "b"]
    assert ids_of(store.take_outbox(worker, 10, 50)) == ["c"]
    assert ids_of(store.take_outbox(worker, 10, 100)) == ["d"]


# Peeking, and answering what nobody claimed.


@reading_needed
def test_peek_shows_what_waits_or_is_delayed_and_nothing_else(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=1)
    before = time.time()
    put(store, queue, "abc")
    put(store, queue, "d", delay_s=60)
    claim(store, joined(store, [queue]), 1)
    seen = store.tasks(TaskQuery(limit=100))
    assert ids_of(seen) == ["b", "c", "d"]
    assert [entry.number for entry in seen] == sorted({entry.number for entry in seen})
    assert {entry.queue for entry in seen} == {queue}
    assert seen[0].payload == b"payload of b"
    assert before - 0.01 <= seen[0].submitted_at <= time.time() + 0.01


@reading_needed
def test_peek_goes_through_the_asked_queues_page_by_page(store: AnyStore) -> None:
    mine, also_mine, other = declared(store, 3)
    for index in range(5):
        put(store, mine, [f"m{index}"])
        put(store, other, [f"o{index}"])
        put(store, also_mine, [f"n{index}"])
    found, after = [], -1
    while page := store.tasks(TaskQuery(queues=[mine, also_mine], after=after, limit=3)):
        assert len(page) <= 3
        found += ids_of(page)
        after = page[-1].number
    assert sorted(found) == sorted([f"{letter}{index}" for letter in "mn" for index in range(5)])
    assert store.tasks(TaskQuery(queues=[])) == []


@depths_needed
def test_an_unclaimed_task_can_be_answered(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    put(store, queue, "d", delay_s=60)
    worker = joined(store, [queue])
    claim(store, worker, 1)
    answers = [Answer(task_id, b"{}", "cancelled") for task_id in ("a", "b", "d", "strange", "b")]
    assert store.answer(answers) == [False, True, True, False, False]
    stats = balanced(store)
    assert (stats.waiting, stats.delayed, stats.running, stats.outbox) == (1, 0, 1, 2)
    assert stats.outcomes == {"cancelled": 2}
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["b", "d"]
    assert ids_of(claim(store, worker)) == ["c"]


# Pausing.


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
    collection, names = ring_of(store, 2)
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
    collection, names = ring_of(store, 2)
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
    finished, released, retried = claim(store, worker)
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


# Cancelling.


def running_and_more(store: AnyStore, running: str = "a") -> tuple[str, Worker, Claim]:
    """A queue whose first task is claimed."""
    (queue,) = declared(store, concurrency=1)
    put(store, queue, running)
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    return queue, worker, claimed


@reading_needed
def test_find_tells_what_waits_or_is_delayed(store: AnyStore) -> None:
    queue, *_ = running_and_more(store)
    put(store, queue, "bc")
    put(store, queue, "d", delay_s=60)
    found = {entry.task_id: entry for entry in store.tasks(TaskQuery(task_ids=[*"abd", "strange"]))}
    assert {*found} == {"b", "d"}
    assert (found["b"].queue, found["b"].payload) == (queue, b"payload of b")
    assert abs(found["d"].submitted_at - time.time()) < PATIENCE_S


@reading_needed
def test_claimed_tells_what_runs(store: AnyStore) -> None:
    queue, _, _ = running_and_more(store)
    put(store, queue, "b")
    other, _, _ = running_and_more(store, "c")
    found = {entry.task_id: entry for entry in store.tasks(TaskQuery("running"))}
    assert {*found} == {"a", "c"}
    assert (found["a"].queue, found["a"].payload) == (queue, b"payload of a")
    assert ids_of(store.tasks(TaskQuery("running", [other]))) == ["c"]
    assert store.tasks(TaskQuery("running", [])) == []


@ids_needed
def test_cancel_says_where_each_task_is(store: AnyStore) -> None:
    queue, worker, claimed = running_and_more(store)
    settle(store, claimed, "complete", result=b"{}", outcome="ok")
    put(store, queue, "b")
    claim(store, worker, 1)
    put(store, queue, "c")
    put(store, queue, "d", delay_s=60)
    fates = store.cancel([*"abcd", "strange"])
    assert fates == ["settled", "signalled", "waiting", "waiting", "unknown"]


def heard(store: AnyStore, wanted: str) -> None:
    """Fails unless it is told that the task was cancelled."""

    def comes() -> bool:
        store.wait(0.1)
        return wanted in store.take_cancelled()

    wait_until(comes, PATIENCE_S, f"word of {wanted}")


def test_who_runs_a_cancelled_task_hears_of_it(store: AnyStore, open_another: OpenStore) -> None:
    operator = open_another()
    store.wait(0)  # From now on it hears.
    _, worker, claimed = running_and_more(store)
    assert operator.cancel(["a"]) == ["signalled"]
    heard(store, "a")
    assert settle(store, claimed, "complete", result=b"{}", outcome="cancelled")
    assert claim(store, worker) == []
    assert operator.cancel(["a"]) != ["signalled"]


def test_a_cancelled_run_that_finishes_first_counts(store: AnyStore) -> None:
    _, worker, claimed = running_and_more(store)
    assert store.cancel(["a"]) == ["signalled"]
    assert settle(store, claimed, "complete", result=b"{}", outcome="ok")
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["a"]


@pytest.mark.parametrize("action", ["release", "retry"])
def test_a_cancelled_task_that_comes_back_is_told_so(store: AnyStore, action: str) -> None:
    _, worker, claimed = running_and_more(store)
    assert not claimed.cancelled
    store.cancel(["a"])
    assert settle(store, claimed, action, delay_s=60 if action == "retry" else 0)
    (again,) = claimed_after_lapse(store, worker)
    assert again.cancelled


def test_a_worker_that_was_told_and_died_leaves_a_cancelled_task(
    store: AnyStore, open_another: OpenStore
) -> None:
    """To one that comes later, though nobody who knew of it is left."""
    (queue,) = declared(store)
    put(store, queue, "ab")
    dying, later = open_another(), open_another()
    claims = claim(dying, joined(dying, [queue], 5 * PACE.lease_s), 2)
    assert sorted(ids_of(claims)) == ["a", "b"]
    assert store.cancel(["a"]) == ["signalled"]
    dying.close()
    found = claimed_after_lapse(later, joined(later, [queue]), 2)
    assert {each.task_id: each.cancelled for each in found} == {"a": True, "b": False}


@pytest.mark.needs("answers_at_once")
def test_what_a_lapsed_worker_held_can_be_answered_though_nobody_claims(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    claimed_and_left(store, queue)
    wait_until(lambda: store.cancel(["a"]) == ["waiting"], PATIENCE_S, "its lease is over")
    assert store.answer([Answer("a", b"{}", "cancelled")]) == [True]


def test_an_id_that_is_sent_again_is_a_new_task(open_another: OpenStore) -> None:
    store, forgetful = open_another(retention_s=0), open_another(retention_s=0)
    _, worker, claimed = running_and_more(store)
    store.cancel(["a"])
    assert settle(store, claimed, "complete", result=b"{}", outcome="cancelled")

    def sent_again() -> bool:
        claim(forgetful, joined(forgetful, []), 1)  # Old ids are forgotten by who claims.
        return put(store, claimed.queue, "a").verdicts == ("accepted",)

    wait_until(sent_again, PATIENCE_S, "the id is forgotten")
    (again,) = claimed_after_lapse(store, worker)
    assert not again.cancelled


def test_eight_processes_cancel_and_run_and_each_task_ends_once(
    store: AnyStore, store_settings: Settings
) -> None:
    """Two of them cancel the same, from the end on, six run."""
    names, total = declared(store, 6, concurrency=2), 150
    ids = [f"task-{index}" for index in range(total)]
    for index, task_id in enumerate(ids):
        put(store, names[index % len(names)], [task_id])
    gate, left, outcomes = SPAWN.Barrier(8), SPAWN.Value("i", total), SPAWN.Queue()
    shared = {"gate": gate, "left": left, "outcomes": outcomes}
    workers = [(store_settings, frozenset(names), f"worker-{index}") for index in range(6)]
    operators = [(store_settings, ids[::-3])] * 2
    processes = [
        *(SPAWN.Process(target=claim_until_cancelled, args=it, kwargs=shared) for it in workers),
        *(SPAWN.Process(target=cancel_one_by_one, args=it, kwargs=shared) for it in operators),
    ]
    for process in processes:
        process.start()
    found = sum((outcomes.get(timeout=60) for _ in processes), Counter[str]())
    for process in processes:
        process.join(30)
    assert found.total() == total
    assert min(found["ok"], found["cancelled"]) > 0
    records = store.take_outbox(joined(store, []), 2 * total, MEBIBYTE)
    assert sorted(ids_of(records)) == sorted(ids)
    assert Counter(record.payload.decode() for record in records) == found


# Dead letters.


def bury(store: AnyStore, collection: str, queue: str, ids: Iterable[str]) -> None:
    store.declare([Queue(queue, collection)])
    worker = joined(store, [queue])
    for task_id in ids:
        put(store, queue, [task_id])
        (claimed,) = claim(store, worker)
        settle(store, claimed, "bury", result=b"{}", outcome="crashed", reason="it died")
    store.leave(worker)


def listed(store: AnyStore, limit: int = 500, **wanted: Any) -> list[str]:
    """The ids of all that fit, page by page."""
    letters: list[DeadSummary] = []
    after = ""
    while True:
        page = store.dead_letters(DeadFilter(**wanted), after, limit)
        assert len(page.letters) <= limit
        letters += page.letters
        if page.after is None:
            return ids_of(letters)
        after = page.after


def buried(store: AnyStore, queue: str, ids: Sequence[str], **fields: str) -> None:
    """Dead letters that died together."""
    put(store, queue, ids)
    worker = joined(store, [queue])
    claims = {each.task_id: each for each in claim(store, worker, len(ids))}
    told = {"outcome": "crashed", "reason": "it died", "result": b"{}", **fields}
    assert all(store.settle([Settlement(claims[each], "bury", **told) for each in ids]))  # type: ignore[arg-type]
    store.leave(worker)


@dead_letters_needed
def test_dead_letters_are_listed_oldest_first_and_read_by_id(store: AnyStore) -> None:
    one, two = unique("one"), unique("two")
    bury(store, one, f"{one}_0", ["a", "b"])
    bury(store, two, f"{two}_0", ["c"])
    bury(store, one, f"{one}_0", ["d"])
    assert listed(store) == ["a", "b", "c", "d"]
    assert listed(store, collection=one) == ["a", "b", "d"]
    assert ids_of(store.read_dead(["d", "c", "strange", "d"])) == ["c", "d"]
    assert store.read_dead([]) == []
    (summary, *_) = store.dead_letters(DeadFilter(), "", 10).letters
    (letter,) = store.read_dead(["a"])
    assert summary == DeadSummary(*(getattr(letter, each.name) for each in fields(DeadSummary)))


@dead_letters_needed
def test_dead_letters_are_filtered_by_all_that_is_asked_for(store: AnyStore) -> None:
    one, (queue,) = ring_of(store, 1)
    other, (another,) = ring_of(store, 1)
    buried(store, queue, ["a"], outcome="infra_error", reason="ReadTimeout: 100% of \u00c4gypten")
    buried(store, queue, ["b"])
    buried(store, another, ["c"], outcome="infra_error", reason="DNS: no such host")
    assert listed(store, outcome="infra_error") == ["a", "c"]
    assert listed(store, outcome="infra_error", collection=other) == ["c"]
    assert listed(store, error="readtimeout") == ["a"]
    assert listed(store, error="100% OF") == ["a"]
    assert listed(store, error="\u00c4") == ["a"]
    assert listed(store, error="%") == ["a"]
    assert listed(store, error="d", collection=one, outcome="crashed") == ["b"]
    assert listed(store, error="nothing of the kind") == []
    assert listed(store, collection="strange") == []


@dead_letters_needed
def test_dead_letters_are_filtered_by_the_time_of_their_death(store: AnyStore) -> None:
    _, (queue,) = ring_of(store, 1)
    before = time.time()
    buried(store, queue, ["a"])
    wait_until(lambda: time.time() > before + 0.01, PATIENCE_S, "time passes")
    buried(store, queue, ["b"])
    died = {each.task_id: each.died_at for each in store.read_dead(["a", "b"])}
    assert before - 0.01 <= died["a"] < died["b"] <= time.time() + 0.01
    assert listed(store, since=died["b"]) == ["b"]
    assert listed(store, until=died["b"]) == ["a"]
    assert listed(store, since=died["a"], until=died["b"], error="DIED") == ["a"]
    assert listed(store, since=died["b"] + 1) == []
    assert store.count_dead(DeadFilter(since=died["b"])) in (1, None)


@dead_letters_needed
def test_pages_give_each_dead_letter_once_whatever_is_dropped_between(
    store: AnyStore, open_another: OpenStore
) -> None:
    _, (queue,) = ring_of(store, 1)
    ids = [f"task-{number:02}" for number in range(20)]
    buried(store, queue, ids, reason="odd ones")
    assert sorted(listed(store, 3)) == ids
    assert sorted(listed(store, 20)) == ids
    assert store.count_dead(DeadFilter()) == 20
    first = store.dead_letters(DeadFilter(), "", 6)
    rest = [each for each in ids if each not in ids_of(first.letters)]
    assert first.after is not None
    store.close()
    later = open_another()
    second = later.dead_letters(DeadFilter(error="ODD"), first.after, 4)
    assert set(ids_of(second.letters)) <= set(rest)
    assert second.after is not None
    assert later.drop_dead(ids_of(first.letters)) == 6
    third = later.dead_letters(DeadFilter(), first.after, 20)
    assert sorted(ids_of(third.letters)) == rest
    assert third.after is None
    assert later.drop_dead(ids_of(second.letters)) == 4
    assert later.drop_dead(ids) == 10
    assert listed(later) == []
    assert later.count_dead(DeadFilter()) == 0


@dead_letters_needed
def test_a_place_that_no_page_gave_is_refused(store: AnyStore) -> None:
    with pytest.raises(ConfigError, match="is not where a list"):
        store.dead_letters(DeadFilter(), "nowhere", 1)


@dead_letters_needed
def test_a_page_holds_no_payloads(store: AnyStore) -> None:
    _, (queue,) = ring_of(store, 1)
    store.offer(queue, [Offer("large", b"x" * 9_000_000)], round_robin=False)
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
    settle(store, claimed, "bury", result=b"{}", outcome="crashed", reason="it died")
    store.leave(worker)  # Where one worker at a time serves a queue, the next is to have it.
    buried(store, queue, ["small"])
    assert listed(store, 1) == ["large", "small"]
    assert [len(each.payload) for each in store.read_dead(["large", "small"])] == [9_000_000, 16]


@dead_letters_needed
@depths_needed
def test_dropped_dead_letters_are_gone_and_their_answers_stay(store: AnyStore) -> None:
    one = unique("one")
    bury(store, one, f"{one}_0", ["a", "b"])
    assert store.drop_dead(["a", "strange"]) == 1
    assert store.drop_dead(["a"]) == 0
    assert listed(store) == ["b"]
    stats = balanced(store)
    assert (stats.dead, stats.outbox) == (1, 2)


# Stats.


@depths_needed
def test_an_empty_store_has_an_empty_ledger(store: AnyStore) -> None:
    stats = balanced(store)
    assert (stats.accepted, stats.outbox, stats.outbox_bytes, stats.delivered) == (0, 0, 0, 0)
    assert (stats.dead, stats.outcomes, stats.queues, stats.workers) == (0, {}, (), ())


@depths_needed
def test_stats_show_each_queue_of_a_ring_in_order(store: AnyStore) -> None:
    ring, names = ring_of(store, 12, max_waiting=5, concurrency=2)
    store.offer(ring, offers(range(13)), round_robin=True)
    claim(store, joined(store, [names[0]]), 1)
    seen = [depth for depth in balanced(store).queues if depth.collection == ring]
    assert [depth.queue for depth in seen] == names
    assert seen[0] == QueueDepth(names[0], ring, 1, 0, 1, limit=5, concurrency=2, cooldown_s=0.0)


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
def test_stats_tell_for_how_long_the_oldest_result_waits(store: AnyStore) -> None:
    (queue,) = declared(store)
    assert store.stats().undelivered_s == 0
    put(store, queue, "ab")
    worker = joined(store, [queue])
    answered(store, claim(store, worker))
    wait_until(lambda: (store.stats().undelivered_s or 0) > HOLD_S, PATIENCE_S, "it gets older")
    store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 9, MEBIBYTE)])
    assert store.stats().undelivered_s == 0


# Waiting.


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
    for ear in ears * 2:  # A first wait may only begin to listen.
        ear.wait(0)
    assert len(claim(store, one, held=0)) == 2
    for ear in ears:
        begun = time.monotonic()
        ear.wait(30)
        assert time.monotonic() - begun < 10


def test_wait_gives_up_at_its_timeout(store: AnyStore) -> None:
    store.wait(0)
    begun = time.monotonic()
    store.wait(0.05)
    assert 0.04 <= time.monotonic() - begun < 10


# The rest.


def test_large_payloads_pass_unchanged(store: AnyStore) -> None:
    (queue,) = declared(store)
    payload, result = os.urandom(9 * MEBIBYTE), os.urandom(20 * MEBIBYTE)
    store.offer(queue, [Offer("large", payload)], round_robin=False)
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker)
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


# Anything, in any order.


class Chaos:
    """Random operations of several workers, and what a ledger on paper says of them."""

    def __init__(self, store: AnyStore, seed: int) -> None:
        self.store, self.random = store, random.Random(seed)
        self.ring = unique("ring")
        self.queues = [f"{self.ring}_{index}" for index in range(4)]
        self.gate_limit = 2
        self.declare()
        # One is silent for longer than its lease, now and then.
        self.workers = [joined(store, self.queues, lease_s) for lease_s in (60, 60, 0.03)]
        self.held: list[Claim] = []
        self.accepted: set[str] = set()
        self.answered: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.taken: list[tuple[Worker, Any]] = []

    def declare(self) -> None:
        """Three queues share a gate, one has none."""
        gates = ["gate", "gate", "gate", None]
        self.gate_limit = self.random.randrange(self.gate_limit, 4)
        self.store.declare(
            [
                Queue(
                    name,
                    self.ring,
                    6,
                    2,
                    concurrency_group=gate,
                    concurrency_group_limit=self.gate_limit,
                )
                for name, gate in zip(self.queues, gates, strict=True)
            ]
        )

    def step(self) -> None:
        usual = [self.offer, self.claim, self.settle]
        rare = [self.take, self.drop, self.answer, self.leave, self.extend, self.declare]
        operation = self.random.choice(usual + usual + rare)
        operation()
        running = {}
        for depth in balanced(self.store).queues:
            running[depth.queue] = depth.running or 0
            assert running[depth.queue] <= depth.concurrency
        assert sum(running[queue] for queue in self.queues[:3]) <= self.gate_limit

    def offer(self) -> None:
        ids = [f"t{self.random.randrange(400)}" for _ in range(self.random.randrange(1, 8))]
        batch = [
            Offer(task_id, b"{}", self.random.randrange(3), self.random.choice([0, 0, 0.01]))
            for task_id in ids
        ]
        verdicts = self.store.offer(self.ring, batch, round_robin=True).verdicts
        for task_id, verdict in zip(ids, verdicts, strict=True):
            assert (verdict == "duplicate") == (task_id in self.accepted)
            if verdict == "accepted":
                self.accepted.add(task_id)

    def claim(self) -> None:
        self.held += claim(self.store, self.random.choice(self.workers), 4)

    def settle(self) -> None:
        self.random.shuffle(self.held)
        batch = [
            Settlement(
                each,
                self.random.choice(
                    ["complete", "complete", "bury", "retry", "release", "cooldown"]
                ),
                each.task_id.encode(),
                "ok",
                delay_s=self.random.choice([0, 0.01]),
            )
            for each in self.held[:3]
        ]
        del self.held[:3]
        for settlement, done in zip(batch, self.store.settle(batch), strict=True):
            if done and settlement.action in ("complete", "bury"):
                self.answered[settlement.claim.task_id] += 1

    def take(self) -> None:
        worker = self.random.choice(self.workers)
        self.taken += [(worker, each) for each in self.store.take_outbox(worker, 3, 8)]

    def drop(self) -> None:
        for worker, record in self.taken[:2]:
            before = self.store.stats().delivered
            self.store.drop_outbox(worker, [record.number])
            if self.store.stats().delivered != before:
                self.delivered[record.payload.decode()] += 1
        del self.taken[:2]

    def answer(self) -> None:
        waiting = self.store.tasks(TaskQuery(queues=self.queues, limit=50))
        for entry in self.random.sample(waiting, min(1, len(waiting))):
            (done,) = self.store.answer([Answer(entry.task_id, entry.task_id.encode(), "stale")])
            self.answered[entry.task_id] += done

    def leave(self) -> None:
        worker = self.random.choice(self.workers)
        self.store.leave(worker)
        self.store.join(worker)

    def extend(self) -> None:
        for worker in self.workers:
            if not self.store.heartbeat(worker):
                self.store.join(worker)

    def finish(self) -> None:
        for worker in self.workers:
            self.store.leave(worker)
        self.workers = [joined(self.store, self.queues)]
        self.taken.clear()
        wait_until(self._is_done, PATIENCE_S, "everything is answered and delivered")

    def _is_done(self) -> bool:
        self.claim()
        self.settle()
        self.take()
        self.drop()
        return self.store.stats().delivered == len(self.accepted)


@ids_needed
@depths_needed
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_task_is_answered_and_delivered_once(
    store: AnyStore, seed: int
) -> None:
    chaos = Chaos(store, seed)
    for _ in range(400):
        chaos.step()
    chaos.finish()
    assert chaos.answered == chaos.delivered == dict.fromkeys(chaos.accepted, 1)
    assert balanced(store).outbox == 0


# Where a task is.


def why_not(store: AnyStore, task_id: str) -> TaskLocation:
    found = store.locate(task_id)
    assert found.task_id == task_id
    assert found.agent is not None
    return found


@ids_needed
def test_a_task_that_waits_has_a_position_behind_those_that_are_claimed_before_it(
    store: AnyStore,
) -> None:
    [queue] = declared(store, max_waiting=50, concurrency=3)
    put(store, queue, ["a", "b", "c"])
    put(store, queue, ["urgent"], priority=-1)
    put(store, queue, ["lazy"], priority=1)
    positions = [why_not(store, it).position for it in ("urgent", "a", "b", "c", "lazy")]
    assert positions == [1, 2, 3, 4, 5]
    found = why_not(store, "b")
    assert (found.place, found.complete, found.failures, found.crashes) == ("waiting", True, 0, 0)
    assert found.agent is not None
    assert (found.agent.queue, found.agent.waiting, found.agent.concurrency) == (queue, 5, 3)
    assert (found.agent.servers, found.agent.runs, found.workers) == ((), (), ())
    assert abs((found.submitted_at or 0) - time.time()) < PATIENCE_S
    worker = joined(store, [queue])
    order = ids_of(claim(store, worker, 1) + claim(store, worker, 1) + claim(store, worker, 1))
    assert order == ["urgent", "a", "b"]
    assert [why_not(store, it).position for it in ("c", "lazy")] == [1, 2]


@ids_needed
def test_tasks_in_their_last_chance_count_for_a_position(store: AnyStore) -> None:
    [queue] = declared(store, max_crashes=2, concurrency=2)
    put(store, queue, ["a", "b"])
    worker = joined(store, [queue], PACE.lease_s)
    assert ids_of(claim(store, worker, 2)) == ["a", "b"]
    other = joined(store, [unique("elsewhere")])

    def put_back() -> bool:
        claim(store, other)
        return store.locate("a").place == "waiting"

    wait_until(put_back, PATIENCE_S, "the lapsed worker's tasks are put back")
    put(store, queue, ["c"])
    put(store, queue, ["urgent"], priority=-1)
    found = [why_not(store, it) for it in ("urgent", "a", "b", "c")]
    assert [it.position for it in found] == [1, 2, 3, 4]
    assert [it.crashes for it in found] == [0, 1, 1, 0]


def test_a_task_that_runs_is_with_its_worker_since_then(store: AnyStore) -> None:
    [queue, other] = declared(store, 2, concurrency=1)
    put(store, queue, ["a"])
    worker = joined(store, [queue])
    bystander = joined(store, [other])
    store.heartbeat(worker, b'{"up_s":1.0}')
    before = time.time()
    claim(store, worker, 1)
    found = why_not(store, "a")
    assert (found.place, found.cancelled) == ("running", False)
    assert found.run is not None
    assert (found.run.task_id, found.run.queue, found.run.worker) == ("a", queue, worker.name)
    assert before - 1 <= (found.run.since or 0) <= time.time() + 1
    assert found.agent is not None
    assert found.agent.runs == (found.run,)
    assert ids_of_workers(found.agent.servers or ()) == [worker.name]
    assert set(ids_of_workers(found.workers)) == {worker.name, bystander.name}
    seen = next(it for it in found.workers if it.name == worker.name)
    assert (seen.slots, seen.running, seen.report) == (100, 1, b'{"up_s":1.0}')
    store.cancel(["a"])
    wait_until(lambda: store.locate("a").cancelled, PATIENCE_S, "it is known to be cancelled")


def ids_of_workers(workers: Iterable[WorkerSeen]) -> list[str]:
    return [worker.name for worker in workers]


@ids_needed
def test_pauses_are_told_apart(store: AnyStore) -> None:
    collection, [first, second] = ring_of(store, 2)
    put(store, first, ["a"])
    put(store, second, ["b"])

    def pauses() -> list[tuple[bool, bool]]:
        agents = [why_not(store, it).agent for it in ("a", "b")]
        return [(it.paused, it.collection_paused) for it in agents if it]

    assert pauses() == [(False, False), (False, False)]
    store.pause(queues=[first], paused=True)
    assert pauses() == [(True, False), (False, False)]
    store.pause(collections=[collection], paused=True)
    assert pauses() == [(True, True), (False, True)]


@ids_needed
def test_holds_retries_and_run_times_are_told(store: AnyStore) -> None:
    [queue] = declared(store)
    put(store, queue, ["held", "again", "done"])
    worker = joined(store, [queue])
    held, again, done = claim(store, worker, 3)
    store.settle(
        [
            Settlement(held, "cooldown", reason="E: slow down", delay_s=600),
            Settlement(again, "retry", reason="E: away", delay_s=300),
            Settlement(done, "complete", b"{}", "ok"),
        ]
    )
    found = why_not(store, "held")
    assert (found.place, found.error, found.failures) == ("waiting", "E: slow down", 0)
    assert found.agent is not None
    assert 590 < found.agent.cooldown_s <= 600
    assert found.agent.run_s is not None
    assert 0 <= found.agent.run_s < PATIENCE_S
    found = why_not(store, "again")
    assert (found.place, found.error, found.failures) == ("delayed", "E: away", 1)
    assert 290 < (found.due_at or 0) - time.time() <= 301


@ids_needed
def test_what_shares_a_gate_is_told(store: AnyStore) -> None:
    first, second = unique("queue"), unique("queue")
    gate = unique("gate")
    limits: dict[str, Any] = {
        "concurrency": 5,
        "concurrency_group": gate,
        "concurrency_group_limit": 1,
    }
    store.declare([Queue(first, **limits), Queue(second, **limits)])
    put(store, first, ["a"])
    put(store, second, ["b"])
    [run] = claim(store, joined(store, [first, second]), 2)
    waits = "b" if run.task_id == "a" else "a"
    found = why_not(store, waits)
    assert found.agent is not None
    assert (found.agent.group_limit, found.agent.runs) == (1, ())
    assert [(it.task_id, it.queue) for it in found.agent.group_runs] == [(run.task_id, run.queue)]


@ids_needed
def test_a_settled_task_is_in_the_outbox_behind_others_until_it_is_delivered(
    store: AnyStore,
) -> None:
    [queue] = declared(store)
    put(store, queue, "abc")
    worker = joined(store, [queue])
    claims = claim(store, worker, 3)
    store.settle([Settlement(each, "complete", b"{}", "ok") for each in claims])
    found = [store.locate(it) for it in "abc"]
    assert [(it.place, it.outbox_before, it.outbox) for it in found] == [
        ("outbox", 0, 3),
        ("outbox", 1, 3),
        ("outbox", 2, 3),
    ]
    assert all(abs((it.since or 0) - time.time()) < PATIENCE_S for it in found)
    assert all(abs((it.outbox_since or 0) - time.time()) < PATIENCE_S for it in found)
    [lent] = store.take_outbox(worker, 1, 10**9)
    assert [store.locate(it).outbox_before for it in "bc"] == [1, 2]
    store.drop_outbox(worker, [lent.number])
    found = [store.locate(it) for it in "abc"]
    assert [(it.place, it.outbox_before) for it in found] == [
        ("settled", None),
        ("outbox", 0),
        ("outbox", 1),
    ]


@reading_needed
def test_a_dead_letter_is_told_with_its_reason(store: AnyStore) -> None:
    [queue] = declared(store)
    put(store, queue, ["a"])
    [given_up] = claim(store, joined(store, [queue]), 1)
    store.settle([Settlement(given_up, "bury", b"{}", "crashed", "3 crashes")])
    found = why_not(store, "a")
    assert (found.place, found.outcome, found.error) == ("dead", "crashed", "3 crashes")
    assert found.agent is not None
    assert found.agent.queue == queue
    assert abs((found.since or 0) - time.time()) < PATIENCE_S


@ids_needed
def test_of_a_worker_that_lapsed_the_run_is_left(store: AnyStore) -> None:
    [queue] = declared(store)
    put(store, queue, ["a"])
    worker, _ = claimed_and_left(store, queue)
    wait_until(lambda: not store.locate("a").workers, PATIENCE_S, "its lease lapses")
    found = why_not(store, "a")
    assert (found.place, found.run and found.run.worker) == ("running", worker.name)


@pytest.mark.parametrize("task_id", ["", "never", "a' OR 1=1 --", "x" * 256, "ß\n\x00 %"])
def test_what_was_never_offered_is_unknown_and_nothing_changes(
    store: AnyStore, task_id: str
) -> None:
    [queue] = declared(store)
    put(store, queue, ["a"])
    before = store.stats()
    found = store.locate(task_id)
    assert (found.task_id, found.place, found.agent) == (task_id, "unknown", None)
    assert store.stats().waiting == before.waiting == 1


@pytest.mark.needs("remembers_ids")
def test_an_id_that_is_odd_is_found(store: AnyStore) -> None:
    [queue] = declared(store)
    odd = "a b'\"\x1b;\nß"
    put(store, queue, ["first", odd])
    assert why_not(store, odd).position == 2
