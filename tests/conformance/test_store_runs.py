"""KeepsRuns: one record per run, however many senders create it, and counts of its tasks."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import Answer, KeepsRuns, ReadsTasks, TaskQuery
from agentpipe.brokers.records import Offer, Queue
from tests.conformance.steps import claim, declared, joined, put, settle, unique

if TYPE_CHECKING:
    from agentpipe.brokers.runs import KeptRun
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsRuns)


def kept(store: AnyStore, name: str) -> KeptRun:
    (found,) = [run for run in store.runs() if run.name == name]
    return found


def test_the_first_record_of_a_run_holds(store: AnyStore, open_another: OpenStore) -> None:
    other = open_another()
    assert store.begin_run("v2", b'{"first": 1}') == b'{"first": 1}'
    assert other.begin_run("v2", b'{"second": 2}') == b'{"first": 1}'
    store.begin_run("a", b"{}")
    assert [(run.name, run.record) for run in other.runs()] == [
        ("v2", b'{"first": 1}'),
        ("a", b"{}"),
    ]


def test_of_first_sends_that_race_one_writes_the_record(open_another: OpenStore) -> None:
    stores = [open_another() for _ in range(4)]
    start, found = Barrier(len(stores)), list[bytes]()

    def begin(store: AnyStore, record: bytes) -> None:
        start.wait()
        found.append(store.begin_run("v2", record))

    threads = [Thread(target=begin, args=(it, b"%d" % n)) for n, it in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(stores)
    assert {*found} == {kept(stores[0], "v2").record}


def test_accepted_tasks_are_counted_by_their_ids_and_once(
    store: AnyStore, open_another: OpenStore
) -> None:
    """This holds also for brokers that remember no other ids."""
    (queue,) = declared(store)
    store.begin_run("v2", b"{}")
    store.begin_run("v3", b"{}")
    put(store, queue, ["v2/a", "v2/b", "v3/a", "v2", "plain", "other/a"])
    other = open_another()
    other.declare([Queue(queue)])
    again = [Offer(task_id, b"{}") for task_id in ("v2/b", "v2/c", "v3/a")]
    verdicts = other.offer(queue, again, round_robin=False).verdicts
    assert verdicts == ("duplicate", "accepted", "duplicate")
    assert (kept(store, "v2").tasks, kept(store, "v3").tasks) == (3, 1)


def test_refused_tasks_do_not_count(store: AnyStore) -> None:
    queue = unique("q")
    store.declare([Queue(queue, max_waiting=2)])
    store.begin_run("v2", b"{}")
    offers = [Offer(f"v2/{n}", b"{}") for n in range(5)]
    assert store.offer(queue, offers, round_robin=False).verdicts.count("accepted") == 2
    assert kept(store, "v2").tasks == 2


def test_a_task_that_is_offered_twice_at_once_is_one_task_of_its_run(store: AnyStore) -> None:
    """Regression: RabbitMQ accepted, and ran, both."""
    queue = unique("q")
    store.declare([Queue(queue, max_waiting=2)])
    store.begin_run("v2", b"{}")
    put(store, queue, ["v2/known"])
    offers = [Offer(f"v2/{name}", b"{}") for name in ("a", "a", "known", "b", "b", "a")]
    verdicts = store.offer(queue, offers, round_robin=False).verdicts
    assert verdicts == ("accepted", *["duplicate"] * 2, *["refused"] * 2, "duplicate")
    assert kept(store, "v2").tasks == 2


def test_a_run_is_forgotten_without_its_tasks(store: AnyStore) -> None:
    (queue,) = declared(store)
    store.begin_run("v2", b"{}")
    put(store, queue, ["v2/a"])
    assert store.drop_run("v2")
    assert not store.drop_run("v2")
    assert store.runs() == []
    (claimed,) = claim(store, joined(store, [queue]))
    assert claimed.task_id == "v2/a"
    assert settle(store, claimed, "complete", result=b"{}", outcome="ok")
    store.begin_run("v2", b"new")
    assert (kept(store, "v2").record, kept(store, "v2").tasks) == (b"new", 0)


@pytest.mark.needs("keeps_run_results")
def test_results_are_counted_by_outcome_and_by_config(store: AnyStore) -> None:
    (queue,) = declared(store)
    store.begin_run("v2", b"{}")
    put(store, queue, [f"v2/{n}" for n in range(4)])
    put(store, queue, ["plain"])
    worker = joined(store, [queue])
    ends: dict[str, dict[str, Any]] = {
        "v2/0": {"outcome": "ok", "reward": 1.0, "usd": 0.25, "config_hash": "aa"},
        "v2/1": {"outcome": "ok", "reward": 0.0, "usd": 0.5, "config_hash": "bb"},
        "v2/2": {"outcome": "limit", "config_hash": "aa"},
        "plain": {"outcome": "ok", "config_hash": "cc", "reward": 1.0},
    }
    claims = claim(store, worker, 5)
    assert len(claims) == 5
    for claimed in claims:
        if claimed.task_id == "v2/3":
            assert settle(store, claimed, "retry", usd=1.0, delay_s=60.0)
        else:
            assert settle(store, claimed, "complete", result=b"{}", **ends[claimed.task_id])
            assert not settle(store, claimed, "complete", result=b"{}", **ends[claimed.task_id])
    run = kept(store, "v2")
    assert (run.tasks, run.outcomes) == (4, {"ok": 2, "limit": 1})
    assert run.configs == {"aa": 2, "bb": 1}
    assert (run.rewarded, run.rewards, run.usd) == (2, 1.0, 1.75)


@pytest.mark.needs("keeps_run_results")
@pytest.mark.capability(protocol=ReadsTasks)
def test_tasks_that_never_ran_are_counted(store: AnyStore) -> None:
    (queue,) = declared(store)
    store.begin_run("v2", b"{}")
    put(store, queue, ["v2/a"])
    assert [it.task_id for it in store.tasks(TaskQuery())] == ["v2/a"]
    assert store.answer([Answer("v2/a", b"{}", "cancelled")]) == [True]
    assert store.answer([Answer("v2/a", b"{}", "cancelled")]) == [False]
    assert kept(store, "v2").outcomes == {"cancelled": 1}
