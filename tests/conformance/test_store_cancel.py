"""CancelsTasks: running tasks are cancelled by their ids."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import Answer, CancelsTasks, ReadsTasks, TaskQuery
from tests.conformance.pace import PACE
from tests.conformance.processes import (
    cancel_one_by_one,
    claim_until_cancelled,
)
from tests.conformance.steps import (
    MEBIBYTE,
    PATIENCE_S,
    SPAWN,
    claim,
    claimed_after_lapse,
    claimed_and_left,
    declared,
    heard,
    ids_needed,
    ids_of,
    joined,
    put,
    running_and_more,
    settle,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=CancelsTasks)


@pytest.mark.capability(protocol=ReadsTasks)
def test_find_tells_what_waits_or_is_delayed(store: AnyStore) -> None:
    queue, *_ = running_and_more(store)
    put(store, queue, "bc")
    put(store, queue, "d", delay_s=60)
    found = {entry.task_id: entry for entry in store.tasks(TaskQuery(task_ids=[*"abd", "strange"]))}
    assert {*found} == {"b", "d"}
    assert (found["b"].queue, found["b"].payload) == (queue, b"payload of b")
    assert abs(found["d"].submitted_at - time.time()) < PATIENCE_S


@pytest.mark.capability(protocol=ReadsTasks)
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


@pytest.mark.parametrize(
    "task_id",
    [
        "two\nlines",
        *(pytest.param(it, marks=pytest.mark.long) for it in ("\n", " ", "a\tb\r", "[1]")),
        "é ☃",
    ],
)
def test_an_id_of_any_characters_is_heard(
    store: AnyStore, open_another: OpenStore, task_id: str
) -> None:
    operator = open_another()
    store.wait(0)
    running_and_more(store, [task_id])
    assert operator.cancel([task_id]) == ["signalled"]
    heard(store, task_id)


def test_who_runs_a_cancelled_task_hears_of_it(store: AnyStore, open_another: OpenStore) -> None:
    operator = open_another()
    store.wait(0)  # The store listens from here on.
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
    """A worker that joins later learns it, even if no store that knew of it is left."""
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
        claim(forgetful, joined(forgetful, []), 1)  # Claims remove expired ids.
        return put(store, claimed.queue, "a").verdicts == ("accepted",)

    wait_until(sent_again, PATIENCE_S, "the id is forgotten")
    (again,) = claimed_after_lapse(store, worker)
    assert not again.cancelled


@pytest.mark.race
def test_eight_processes_cancel_and_run_and_each_task_ends_once(
    store: AnyStore, store_settings: Settings
) -> None:
    """Two processes cancel the same tasks, from the end, while six run them."""
    names, total = declared(store, 6, concurrency=2), 150
    ids = [f"task-{index}" for index in range(total)]
    for index, task_id in enumerate(ids):
        put(store, names[index % len(names)], [task_id])
    group, left, outcomes = SPAWN.Barrier(8), SPAWN.Value("i", total), SPAWN.Queue()
    shared = {"group": group, "left": left, "outcomes": outcomes}
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
