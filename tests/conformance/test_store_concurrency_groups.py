"""Concurrency groups: queues that share one limit."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import (
    Queue,
)
from tests.conformance.steps import (
    MEBIBYTE,
    answered,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    declared,
    depths,
    depths_needed,
    ids_of,
    joined,
    put,
    run_by_four_processes,
    settle,
    shared_queues_needed,
    unique,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore


def grouped(store: AnyStore, number: int, limit: int, **limits: Any) -> list[str]:
    """Declare queues that share a concurrency group."""
    group = unique("group")
    names = [f"{unique('queue')}-{index}" for index in range(number)]
    declare_grouped(store, names, group, limit, **limits)
    return names


def declare_grouped(
    store: AnyStore, names: Iterable[str], group: str | None, limit: int, **limits: Any
) -> None:
    wide = {"concurrency": 100, **limits}
    store.declare(
        [
            Queue(name, concurrency_group=group, concurrency_group_limit=limit, **wide)
            for name in names
        ]
    )


def test_a_group_lets_no_more_through_than_its_limit_within_one_claim(store: AnyStore) -> None:
    names = grouped(store, 4, 3)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(5)])
    worker = joined(store, names)
    claims = claim(store, worker)
    assert len(claims) == 3
    assert len({each.queue for each in claims}) == 3
    assert claim(store, worker) == []


def test_a_group_has_room_for_more_of_one_queue(store: AnyStore) -> None:
    names = grouped(store, 2, 3)
    put(store, names[0], "abcde")
    worker = joined(store, names)
    assert len(claim(store, worker)) + len(claim(store, worker)) == 3


@shared_queues_needed
def test_a_group_limit_holds_over_all_workers(store: AnyStore, open_another: OpenStore) -> None:
    names = grouped(store, 3, 2)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(3)])
    other = open_another()
    one, two = joined(store, names), joined(store, names)
    assert len(claim(store, one, 1) + claim(other, two, 5)) == 2
    assert claim(store, one) == claim(other, two) == []


def test_queues_beside_a_full_group_go_on(store: AnyStore) -> None:
    names, (free,) = grouped(store, 2, 1), declared(store)
    for name in (*names, free):
        put(store, name, [f"{name}-{index}" for index in range(2)])
    worker = joined(store, [*names, free])
    shares = Counter(each.queue for each in (*claim(store, worker), *claim(store, worker)))
    assert shares[free] == 2
    assert shares[names[0]] + shares[names[1]] == 1


@pytest.mark.parametrize(
    "action",
    [
        "complete",
        "crash",
        *(pytest.param(it, marks=pytest.mark.long) for it in ("bury", "retry", "release")),
        "cooldown",
    ],
)
def test_a_settlement_frees_a_group_for_its_other_queues(store: AnyStore, action: str) -> None:
    names = grouped(store, 2, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    (first,) = claim(store, worker)
    assert settle(store, first, action, result=b"{}", outcome="ok", delay_s=60)
    (second,) = claim(store, worker)
    assert {first.queue, second.queue} == set(names)


def test_a_worker_that_leaves_frees_a_group(store: AnyStore) -> None:
    names = grouped(store, 2, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    assert len(claim(store, worker)) == 1
    store.leave(worker)
    assert len(claim(store, joined(store, names))) == 1


def test_a_lapse_frees_a_group(store: AnyStore) -> None:
    names = grouped(store, 2, 1)
    put(store, names[0], "a")
    claimed_and_left(store, names[0])
    put(store, names[1], "b")
    worker = joined(store, names)
    first = claimed_after_lapse(store, worker)
    assert len(first) == 1
    answered(store, first)
    second = claimed_after_lapse(store, worker)
    assert {*ids_of(first), *ids_of(second)} == {"a", "b"}


def test_a_group_is_fair_to_its_queues(store: AnyStore) -> None:
    names = grouped(store, 3, 1)
    for name in names:
        put(store, name, [f"{name}-{index}" for index in range(4)])
    worker = joined(store, names)
    order = []
    for _ in range(12):
        (claimed,) = claim(store, worker, 1)
        answered(store, [claimed])
        order.append(claimed.queue)
    assert all(set(order[at : at + 3]) == set(names) for at in range(0, 12, 3))


def test_groups_do_not_delay_each_others_turns(store: AnyStore) -> None:
    one, two, (free,) = grouped(store, 2, 1), grouped(store, 2, 1), declared(store, concurrency=1)
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


def test_a_redeclared_group_limit_holds_from_then_on(store: AnyStore) -> None:
    names, group = [f"{unique('queue')}-{index}" for index in range(4)], unique("group")
    declare_grouped(store, names, group, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    first = claim(store, worker)
    assert len(first) == 1
    declare_grouped(store, names, group, 3)
    second = claim(store, worker, 2)
    assert len(second) == 2
    declare_grouped(store, names, group, 1)
    answered(store, [*first, *second])
    assert len(claim(store, worker)) == 1


def test_a_queue_may_leave_its_group(store: AnyStore) -> None:
    names, group = [f"{unique('queue')}-{index}" for index in range(2)], unique("group")
    declare_grouped(store, names, group, 1)
    for name in names:
        put(store, name, [name])
    worker = joined(store, names)
    (first,) = claim(store, worker)
    assert claim(store, worker) == []
    declare_grouped(store, set(names) - {first.queue}, None, 1)
    (second,) = claimed_after_lapse(store, worker)
    answered(store, [first, second])
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == [first.task_id, second.task_id]


@shared_queues_needed
def test_wait_returns_when_a_group_is_freed_for_another_queue(
    store: AnyStore, open_another: OpenStore
) -> None:
    one, two = grouped(store, 2, 1)
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


@pytest.mark.race
def test_a_group_of_one_over_four_processes(store: AnyStore, store_settings: Settings) -> None:
    queues = grouped(store, 3, 1)
    for queue in queues:
        put(store, queue, [f"{queue}-{index}" for index in range(20)])
    held = run_by_four_processes(store_settings, queues, 60)
    runs = sorted((begun, ended) for _, begun, ended, _ in held)
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(runs))


@depths_needed
def test_the_ledger_names_a_queues_group_and_its_limit(store: AnyStore) -> None:
    group, (name, free) = unique("group"), declared(store, number=2)
    declare_grouped(store, [name], group, 3)
    seen = depths(store)
    assert (seen[name].group, seen[free].group) == ((group, 3), None)
    declare_grouped(store, [name], group, 2)
    assert depths(store)[name].group == (group, 2)
