"""Admission: which tasks a store accepts, round-robin and up to its limits, in which order."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import (
    Admission,
    Offer,
    Queue,
    Source,
)
from agentpipe.brokers.statistics import QueueDepth
from tests.conformance.processes import (
    offer_one_by_one,
)
from tests.conformance.steps import (
    PATIENCE_S,
    SPAWN,
    answered,
    balanced,
    claim,
    claimed_after_lapse,
    collection_of,
    declared,
    depths,
    depths_needed,
    ids_needed,
    ids_of,
    joined,
    offers,
    put,
    settle,
    signals_needed,
    sources_needed,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


@depths_needed
def test_a_declared_queue_is_known_with_its_limits(store: AnyStore) -> None:
    name = unique("queue")
    store.declare([Queue(name, "crew", max_waiting=7, concurrency=3)])
    assert depths(store)[name] == QueueDepth(
        name, "crew", 0, 0, 0, limit=7, concurrency=3, cooldown_s=0.0
    )


@pytest.mark.parametrize("delay_s", [0.0, 3600.0])
def test_what_follows_an_ended_task_finds_room_in_a_full_queue(
    store: AnyStore, delay_s: float
) -> None:
    (queue,) = declared(store, max_waiting=1)
    assert put(store, queue, ["a", "b"]).verdicts == ("accepted", "refused")
    follower = Offer("c", b"{}", delay_s=delay_s, bounded=False)
    assert store.offer(queue, [follower], round_robin=False).verdicts == ("accepted",)
    assert put(store, queue, ["d"]).verdicts == ("refused",)
    nowhere = store.offer(unique("nowhere"), [Offer("e", b"{}", bounded=False)], round_robin=False)
    assert (nowhere.verdicts, nowhere.bound) == (("refused",), 0)


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
def test_a_queue_that_left_its_collection_keeps_its_tasks_and_takes_none(store: AnyStore) -> None:
    collection, (first, second) = collection_of(store, 2)
    store.offer(collection, offers("abcd"), round_robin=True)
    store.declare([Queue(first, collection, concurrency=100)])
    assert store.offer(collection, offers("efgh"), round_robin=True).verdicts == ("accepted",) * 4
    assert depths(store)[second].waiting == 2
    assert depths(store)[first].waiting == 6
    assert sorted(ids_of(claim(store, joined(store, [second])))) == ["b", "d"]


def test_a_queue_that_returned_to_its_collection_takes_tasks_again(store: AnyStore) -> None:
    collection, (first, second) = collection_of(store, 2)
    store.declare([Queue(first, collection)])
    store.declare([Queue(first, collection), Queue(second, collection)])
    store.offer(collection, offers("ab"), round_robin=True)
    assert len(claim(store, joined(store, [second]))) == 1


def test_declaring_a_collection_leaves_others_as_they_are(store: AnyStore) -> None:
    collection, _ = collection_of(store, 2)
    collection_of(store, 3)
    assert store.offer(collection, offers("ab"), round_robin=True).verdicts == ("accepted",) * 2


def test_queues_in_another_order_make_a_collection_of_the_same_queues(store: AnyStore) -> None:
    collection, names = collection_of(store, 3, max_waiting=1)
    store.declare([Queue(name, collection, max_waiting=1) for name in reversed(names)])
    assert store.offer(collection, offers("abcd"), round_robin=True).verdicts.count("accepted") == 3


@signals_needed
def test_declaring_again_what_is_known_wakes_nobody(
    store: AnyStore, open_another: OpenStore
) -> None:
    collection, names = collection_of(store, 2)
    store.declare([Queue(names[0], collection)])
    other = open_another()
    store.wait(0)
    other.declare([Queue(names[0], collection)])
    begun = time.monotonic()
    store.wait(0.1)
    assert time.monotonic() - begun >= 0.09


def test_a_collection_is_offered_round_robin(store: AnyStore) -> None:
    collection, names = collection_of(store, 3)
    store.offer(collection, offers(range(7)), round_robin=True)
    shares = [sorted(ids_of(claim(store, joined(store, [name])))) for name in names]
    assert shares == [["0", "3", "6"], ["1", "4"], ["2", "5"]]


def test_round_robin_goes_on_between_calls_and_senders(
    store: AnyStore, open_another: OpenStore
) -> None:
    collection, names = collection_of(store, 3)
    senders = [store, open_another(), open_another()]
    for index in range(9):
        senders[index % 3].offer(collection, offers([index, f"{index}'"]), round_robin=True)
    shares = [len(claim(store, joined(store, [name]))) for name in names]
    assert shares == [6, 6, 6]


def test_full_queues_are_passed_over(store: AnyStore) -> None:
    collection, names = collection_of(store, 3, max_waiting=2)
    put(store, names[1], "xy")
    assert store.offer(collection, offers("abcd"), round_robin=True).verdicts == ("accepted",) * 4
    assert sorted(ids_of(claim(store, joined(store, [names[0]])))) == ["a", "c"]
    assert sorted(ids_of(claim(store, joined(store, [names[2]])))) == ["b", "d"]


def test_where_all_are_full_the_rest_is_refused_with_depth_and_bound(store: AnyStore) -> None:
    collection, _ = collection_of(store, 2, max_waiting=2)
    admission = store.offer(collection, offers("abcdef"), round_robin=True)
    assert admission == Admission(("accepted",) * 4 + ("refused",) * 2, depth=4, bound=4)


def test_one_full_queue_refuses_with_its_own_depth_and_bound(store: AnyStore) -> None:
    _, (first, _) = collection_of(store, 2, max_waiting=3)
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
    collection = store.offer(unique("nowhere"), offers("a"), round_robin=True)
    assert collection == Admission(("refused",), 0, 0)


def test_no_offers_are_admitted_as_nothing(store: AnyStore) -> None:
    collection, _ = collection_of(store, 1)
    assert store.offer(collection, [], round_robin=True).verdicts == ()


@ids_needed
def test_an_id_is_accepted_once_within_a_batch(store: AnyStore) -> None:
    collection, names = collection_of(store, 2)
    verdicts = store.offer(collection, offers("abab"), round_robin=True).verdicts
    assert verdicts == ("accepted", "accepted", "duplicate", "duplicate")
    assert sorted(ids_of(claim(store, joined(store, names)))) == ["a", "b"]


@ids_needed
def test_an_id_is_accepted_once_while_it_lives(store: AnyStore) -> None:
    _, (first, second) = collection_of(store, 2)
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
    put(store, queue, "ab")
    answered(store, claim(store, joined(store, [queue])))
    assert put(store, queue, "ab").verdicts == ("duplicate",) * 2


@ids_needed
def test_a_settled_id_is_forgotten_after_the_retention_time(open_another: OpenStore) -> None:
    forgetful = open_another(retention_s=0.05)
    (queue,) = declared(forgetful)
    put(forgetful, queue, ["settled", "living"])
    worker = joined(forgetful, [queue])
    answered(forgetful, claim(forgetful, worker, 1))

    def accepted_again() -> bool:
        # A store purges ids only now and then; a newly opened one checks sooner.
        sweeper = open_another(retention_s=0.05)
        claim(sweeper, worker, 1)
        return put(sweeper, queue, ["settled"]).verdicts == ("accepted",)

    wait_until(accepted_again, PATIENCE_S, "the settled id is accepted again")
    assert put(forgetful, queue, ["living"]).verdicts == ("duplicate",)
    balanced(forgetful)


@pytest.mark.race
def test_the_bound_is_exact_with_eight_processes_offering_at_once(
    store: AnyStore, store_settings: Settings
) -> None:
    collection, names = collection_of(store, 2, max_waiting=25)
    group, verdicts = SPAWN.Barrier(8), SPAWN.Queue()
    senders = [
        SPAWN.Process(
            target=offer_one_by_one,
            args=(
                store_settings,
                collection,
                [f"{sender}-{n}" for n in range(20)],
                group,
                verdicts,
            ),
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


def test_delayed_offers_meet_the_bound(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=2)
    put(store, queue, "a")
    admission = put(store, queue, "bcd", delay_s=3600)
    assert admission == Admission(("accepted", "refused", "refused"), depth=2, bound=2)
    other = collection_of(store, 2, max_waiting=2)[0]
    late = store.offer(other, offers(range(6), delay_s=3600), round_robin=True)
    assert late == Admission(("accepted",) * 4 + ("refused",) * 2, depth=4, bound=4)


@depths_needed
def test_what_is_delayed_takes_the_room_of_what_would_wait(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=2)
    put(store, queue, ["late"], delay_s=3600)
    assert put(store, queue, "ab") == Admission(("accepted", "refused"), depth=2, bound=2)
    collection, (first, second) = collection_of(store, 2, max_waiting=2)
    put(store, first, ["later", "latest"], delay_s=3600)
    store.offer(collection, offers("cde"), round_robin=True)
    assert (depths(store)[first].waiting, depths(store)[second].waiting) == (0, 2)


def test_a_delayed_offer_that_has_arrived_makes_room(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=1)
    put(store, queue, ["late"], delay_s=0.1)
    worker = joined(store, [queue])
    claims = claimed_after_lapse(store, worker)
    assert ids_of(claims) == ["late"]
    wait_until(
        lambda: put(store, queue, ["next"], delay_s=3600).verdicts == ("accepted",),
        PATIENCE_S,
        "room for the next",
    )
    assert put(store, queue, ["last"], delay_s=3600).verdicts == ("refused",)


@depths_needed
def test_returned_tasks_exceed_the_bound_by_no_more_than_the_concurrency(store: AnyStore) -> None:
    (queue,) = declared(store, max_waiting=3, concurrency=2)
    worker, most = joined(store, [queue]), 0
    for turn in range(8):
        put(store, queue, [f"{turn}-{n}" for n in range(5)])
        claims = claim(store, worker)
        put(store, queue, [f"{turn}+{n}" for n in range(5)])
        for each, action in zip(claims, ("retry", "release"), strict=False):
            settle(store, each, action, delay_s=3600)
        depth = depths(store)[queue]
        most = max(most, (depth.waiting or 0) + (depth.delayed or 0))
    assert most == 3 + 2


def sourced(
    collection: str, number: int, edited_us: int, *, serves: bool = False, **limits: Any
) -> list[Queue]:
    """A collection's queues, as declared from a file of that age."""
    place = f"{'worker' if serves else 'sender'}:{number}.yaml"
    source = Source(f"{number:x}", place, edited_us, edited_us, serves)
    return [
        Queue(f"{collection}_{index}", collection, **{"concurrency": 100, **limits}, source=source)
        for index in range(number)
    ]


def shares(store: AnyStore, collection: str, number: int) -> list[int]:
    names = [f"{collection}_{index}" for index in range(number)]
    return [len(claim(store, joined(store, [name]))) for name in names]


@sources_needed
def test_a_sender_with_an_older_file_does_not_grow_the_collection_again(
    store: AnyStore, open_another: OpenStore
) -> None:
    collection = unique("collection")
    open_another().declare(sourced(collection, 4, edited_us=1_000))
    store.declare(sourced(collection, 2, edited_us=2_000, serves=True))
    sender = open_another()
    sender.declare(sourced(collection, 4, edited_us=1_000))
    sender.offer(collection, offers(range(8)), round_robin=True)
    assert shares(store, collection, 4) == [4, 4, 0, 0]
    assert {(it.by, it.source.place) for it in store.stats().declared} == {
        ("group", "worker:2.yaml"),
        ("sender", "sender:4.yaml"),
        ("worker", "worker:2.yaml"),
    }


@sources_needed
def test_limits_of_an_older_file_change_nothing(store: AnyStore) -> None:
    collection = unique("collection")
    store.declare(sourced(collection, 1, edited_us=2_000, max_waiting=2, serves=True))
    store.declare(sourced(collection, 1, edited_us=1_000, max_waiting=9))
    store.offer(collection, offers("abc"), round_robin=True)
    (depth,) = store.stats().queues
    assert (depth.limit, depth.waiting) == (2, 2)


@sources_needed
def test_a_newer_file_and_a_workers_file_change_the_collection(store: AnyStore) -> None:
    collection = unique("collection")
    store.declare(sourced(collection, 1, edited_us=1_000))
    store.declare(sourced(collection, 2, edited_us=2_000))
    assert [it.removed for it in store.stats().queues] == [False, False]
    store.declare(sourced(collection, 1, edited_us=500, serves=True))
    store.offer(collection, offers("ab"), round_robin=True)
    assert shares(store, collection, 2) == [2, 0]


@sources_needed
def test_a_removed_agent_is_shown_while_tasks_wait_there(store: AnyStore) -> None:
    collection, (first, second) = collection_of(store, 2)
    store.offer(collection, offers("ab"), round_robin=True)
    store.declare([Queue(first, collection, concurrency=100)])
    found = {depth.queue: (depth.waiting, depth.removed) for depth in store.stats().queues}
    assert found == {first: (1, False), second: (1, True)}
