"""LocatesTasks: where a task is, and what it waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import LocatesTasks, ReadsTasks
from agentpipe.brokers.records import (
    Queue,
    Settlement,
)
from tests.conformance.pace import PACE
from tests.conformance.steps import (
    PATIENCE_S,
    claim,
    claimed_and_left,
    collection_of,
    declared,
    ids_needed,
    ids_of,
    joined,
    put,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.statistics import WorkerSeen
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=LocatesTasks)


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
    worker = joined(store, [queue], max(1.0, PACE.lease_s))
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
    collection, [first, second] = collection_of(store, 2)
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
def test_a_task_that_did_not_run_changes_no_run_time(store: AnyStore) -> None:
    [queue] = declared(store)
    put(store, queue, ["late", "unread", "ran", "waits"])
    worker = joined(store, [queue])

    def mean_s(*settlements: Settlement) -> float | None:
        store.settle(settlements)
        found = why_not(store, "waits").agent
        assert found is not None
        return found.run_s

    late, unread, ran = claim(store, worker, 3)
    assert mean_s(Settlement(late, "complete", b"{}", "stale", ran=False)) is None
    mean = mean_s(Settlement(ran, "complete", b"{}", "ok"))
    assert mean is not None
    assert mean_s(Settlement(unread, "bury", b"{}", "infra_error", ran=False)) == mean


@ids_needed
def test_what_shares_a_group_is_told(store: AnyStore) -> None:
    first, second = unique("queue"), unique("queue")
    group = unique("group")
    limits: dict[str, Any] = {
        "concurrency": 5,
        "concurrency_group": group,
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


@pytest.mark.capability(protocol=ReadsTasks)
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
