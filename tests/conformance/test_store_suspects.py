"""Suspects: with a limit of one crash, tasks of a worker that crashed run again alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import Worker
from tests.conformance.pace import PACE
from tests.conformance.steps import (
    answered,
    balanced,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    declared,
    ids_of,
    joined,
    put,
    settle,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.records import Claim
    from tests.stores import AnyStore

pytestmark = pytest.mark.needs("spares_neighbours")
ONCE = {"max_crashes": 1}


def test_of_several_that_died_together_none_is_blamed_and_each_runs_alone(
    store: AnyStore,
) -> None:
    one, other = declared(store, 2, **ONCE)
    put(store, one, "ab")
    put(store, other, "c")
    _left(store, [one, other], 3)
    put(store, one, ["fresh"])
    worker = joined(store, [one, other])
    seen: list[str] = []
    for _ in range(3):
        (alone,) = claimed_after_lapse(store, worker)
        assert alone.crashes == 0
        assert claim(store, worker) == []
        assert answered(store, [alone]) == [True]
        seen.append(alone.task_id)
    assert sorted(seen) == ["a", "b", "c"]
    assert ids_of(claim(store, worker)) == ["fresh"]


def test_the_crash_of_one_that_ran_alone_is_its_own(store: AnyStore) -> None:
    (queue,) = declared(store, **ONCE)
    put(store, queue, "ab")
    _left(store, [queue], 2)
    killer = _left(store, [queue], 1)[0].task_id
    found: dict[str, Claim] = {}

    def both() -> bool:
        for each in claim(store, worker):
            found[each.task_id] = each
            settle(store, each, "complete", result=b"{}", outcome="ok")
        return len(found) == 2

    worker = joined(store, [queue])
    wait_until(both, 20, "both tasks")
    assert found.pop(killer).crashes == 1
    assert [each.crashes for each in found.values()] == [0]


def test_the_only_task_of_a_worker_is_to_blame_at_once(store: AnyStore) -> None:
    (queue,) = declared(store, **ONCE)
    put(store, queue, "a")
    claimed_and_left(store, queue)
    (found,) = claimed_after_lapse(store, joined(store, [queue]))
    assert found.crashes >= 1


def test_busy_workers_go_on_while_one_of_them_makes_room_for_a_suspect(store: AnyStore) -> None:
    suspicious, busy = declared(store, 2, **ONCE)
    put(store, busy, range(20))
    both = frozenset([suspicious, busy])
    first, second = (
        Worker(f"{name}-{suspicious}", slots=100, lease_s=60, queues=both) for name in "12"
    )
    for worker in (first, second):
        store.join(worker)
    ((running,), _) = (claim(store, worker, 1) for worker in (first, second))
    put(store, suspicious, "ab")
    _left(store, [suspicious], 2)
    assert claim(store, first) == []
    (other,) = claim(store, second, 1)
    assert other.queue == busy
    assert settle(store, running, "complete", result=b"{}", outcome="ok")
    (suspect,) = claim(store, first, 1)
    assert suspect.queue == suspicious
    assert claim(store, first) == []


def test_the_ledger_holds_over_a_shared_crash(store: AnyStore) -> None:
    (queue,) = declared(store, **ONCE)
    put(store, queue, "abc")
    _left(store, [queue], 2)
    worker = joined(store, [queue])
    (alone,) = claimed_after_lapse(store, worker)
    stats = balanced(store)
    assert (stats.waiting, stats.running) == (2, 1)
    settle(store, alone, "release")
    assert balanced(store).waiting == 3
    assert len(claim(store, worker)) == 1


def _left(store: AnyStore, queues: list[str], number: int) -> list[Claim]:
    """Claims of a worker that dies; returns once its lease has lapsed."""
    lease_s = 3 * PACE.lease_s  # Long enough for some claims, on a busy machine too.
    worker = Worker(f"left-{queues[0]}", slots=100, lease_s=lease_s, queues=frozenset(queues))

    store.join(worker)
    found: list[Claim] = []

    def claims() -> bool:
        found.extend(claim(store, worker, number - len(found)))
        return len(found) == number

    wait_until(claims, 20, "claims within a short lease")
    _until_ended(store, worker)
    return found


def _until_ended(store: AnyStore, worker: Worker) -> None:
    def lapsed() -> bool:
        return worker.name not in {each.name for each in store.stats().workers}

    wait_until(lapsed, 20, "the lease lapses")
    store.cancel(["none"])  # Ends lapsed workers without claiming.
