"""MovesTasks: tasks of agents removed from a collection move to its remaining agents."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import MovesTasks
from agentpipe.brokers.records import Queue
from agentpipe.operations.rebalance import rebalance
from tests.conformance.steps import (
    PATIENCE_S,
    answered,
    balanced,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    collection_of,
    depths_needed,
    ids_of,
    joined,
    offers,
    put,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=MovesTasks)


def shrunk(
    store: AnyStore, before: int, after: int, tasks: Iterable[object], **limits: Any
) -> tuple[str, list[str]]:
    """A collection with tasks at each agent, some of which were then removed."""
    collection, names = collection_of(store, before, **limits)
    store.offer(collection, offers(tasks), round_robin=True)
    kept = {"concurrency": 100, **limits}
    store.declare([Queue(name, collection, **kept) for name in names[:after]])
    return collection, names


def waiting(store: AnyStore) -> dict[str, int | None]:
    return {depth.queue: depth.waiting for depth in store.stats().queues}


def test_tasks_of_removed_agents_move_to_those_there_are(store: AnyStore) -> None:
    collection, names = shrunk(store, before=4, after=2, tasks=range(12))
    assert store.move(collection, names[2:], 500) == 6
    assert store.move(collection, names[2:], 500) == 0
    assert waiting(store) == {names[0]: 6, names[1]: 6}
    claims = claim(store, joined(store, names[:2]))
    assert sorted(ids_of(claims), key=int) == [str(n) for n in range(12)]
    assert claims[0].payload.startswith(b"payload of ")


def test_the_bound_of_those_there_are_holds(store: AnyStore) -> None:
    collection, names = shrunk(store, before=3, after=1, tasks=range(9), max_waiting=3)
    store.declare([Queue(names[0], collection, 5, 100)])
    assert store.move(collection, names[1:], 500) == 2
    assert store.move(collection, names[1:], 500) == 0
    left = waiting(store)
    assert left.pop(names[0]) == 5
    assert sum(count or 0 for count in left.values()) == 4
    assert len(claim(store, joined(store, names))) == 9


def test_agents_that_are_still_there_keep_their_tasks(store: AnyStore) -> None:
    collection, names = shrunk(store, before=2, after=2, tasks=range(4))
    _, theirs = shrunk(store, before=2, after=1, tasks="abcd")
    assert store.move(collection, [*names, *theirs], 500) == 0
    assert waiting(store)[theirs[1]] == 2


def test_a_portion_is_moved_at_a_time(store: AnyStore) -> None:
    collection, names = shrunk(store, before=2, after=1, tasks=range(10))
    assert [store.move(collection, names[1:], 2) for _ in range(4)] == [2, 2, 1, 0]


@depths_needed
def test_what_others_move_meanwhile_is_not_left(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, _ = shrunk(store, before=2, after=1, tasks=range(4))
    move = store.move

    def move_for_others(*args: Any) -> int:
        assert move(*args) == 2
        return 0

    monkeypatch.setattr(store, "move", move_for_others)
    found = rebalance(store, collection)
    assert (found.moved, found.left) == (0, 0)


@depths_needed
def test_delayed_tasks_move_and_stay_delayed(store: AnyStore) -> None:
    collection, names = collection_of(store, 2)
    put(store, names[1], "ab", delay_s=3600)
    put(store, names[1], ["soon"], delay_s=0.05)
    store.declare([Queue(names[0], collection, concurrency=100)])
    assert store.move(collection, names[1:], 500) == 3
    worker = joined(store, names[:1])
    assert ids_of(claimed_after_lapse(store, worker)) == ["soon"]
    (depth,) = balanced(store).queues
    assert (depth.waiting, depth.delayed, depth.running) == (0, 2, 1)


def test_what_a_task_has_met_moves_with_it(store: AnyStore) -> None:
    collection, names = collection_of(store, 2, max_crashes=9)
    put(store, names[1], "a", priority=5)
    _, (left,) = claimed_and_left(store, names[1])
    helper = joined(store, [names[0]])
    claim(store, helper)  # Any claim returns the lapsed worker's tasks.
    store.declare([Queue(names[0], collection, concurrency=100, max_crashes=9)])
    wait_until(
        lambda: claim(store, helper) == [] and store.move(collection, names[1:], 500) == 1,
        PATIENCE_S,
        "the crashed task is moved",
    )
    (claimed,) = claimed_after_lapse(store, helper)
    assert (claimed.queue, claimed.crashes) == (names[0], left.crashes + 1)


def test_what_runs_is_not_moved(store: AnyStore) -> None:
    collection, names = collection_of(store, 2)
    put(store, names[1], "ab")
    worker = joined(store, names[1:])
    (running,) = claim(store, worker, 1)
    store.declare([Queue(names[0], collection, concurrency=100)])
    store.move(collection, names[1:], 500)
    assert answered(store, [running]) == [True]


def test_two_that_move_at_once_move_each_task_once(
    store: AnyStore, open_another: OpenStore
) -> None:
    collection, names = shrunk(store, before=4, after=2, tasks=range(200))
    moved: list[int] = []

    def move(mover: AnyStore) -> None:
        for _ in iter(functools.partial(_move_some, mover, collection, names[2:], moved), 0):
            pass

    movers = [threading.Thread(target=move, args=(open_another(),)) for _ in range(2)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join(60)
    assert sum(moved) == 100
    claims = claim(store, joined(store, names[:2]), 200)
    assert sorted(ids_of(claims), key=int) == [str(n) for n in range(200)]


def _move_some(store: AnyStore, collection: str, agents: list[str], moved: list[int]) -> int:
    moved.append(store.move(collection, agents, 7))
    return moved[-1]
