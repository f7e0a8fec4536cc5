"""On RabbitMQ, results of good runs go to a quick sink directly; a slow sink gets the outbox's."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.rabbitmq import RabbitStore, direct_results, sink_speed
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Worker
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.errors import Unreachable
from agentpipe.settings import OutboxLimits
from tests.integration.rabbit_worker import Working, worker_of
from tests.stores import PATIENCE_S, claim_all, claim_up_to, good
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.records import Claim, OutboxRecord
    from tests.integration.project import Project

AGES_S = 3_600.0
TASKS, KILLS = 1_000, 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, the sink counts as quick."""
    monkeypatch.setattr(sink_speed, "QUICK_S", AGES_S)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result is stored in the outbox because it has waited for the sink."""
    monkeypatch.setattr(direct_results, "WITHIN_S", AGES_S)


def working(rabbit_url: str) -> Working:
    return worker_of(rabbit_url, Queue("one", None, 100, 2, max_crashes=5))


def handing_over(store: RabbitStore) -> threading.Event:
    """Begin; the returned event is set when results come directly."""
    hurried = threading.Event()
    store.hand_over(hurried.set)
    return hurried


def ended(
    store: RabbitStore, worker: Worker, result: bytes = b"{}"
) -> tuple[list[Claim], Future[list[bool]]]:
    """Two runs that have ended well."""
    store.offer("one", [Offer("a", b"{}"), Offer("b", b"{}")], round_robin=False)
    claims = claim_all(2, store, worker)
    begun = store.settle_meanwhile(good(claims, result), None)
    assert begun is not None
    return claims, begun[0]


def taken(store: RabbitStore, worker: Worker) -> list[OutboxRecord]:
    return wait_until(lambda: store.take_outbox(worker, 100, 10**6), PATIENCE_S, "results")


def confirm(store: RabbitStore, worker: Worker, records: Sequence[OutboxRecord]) -> None:
    store.drop_outbox(worker, [record.number for record in records])


def seen(records: Sequence[OutboxRecord]) -> list[tuple[str, bool]]:
    return sorted((record.task_id, record.holds_task) for record in records)


@pytest.mark.usefixtures("patient")
def test_a_task_is_settled_once_a_quick_sink_has_its_result(rabbit_url: str) -> None:
    with working(rabbit_url) as (store, worker):
        hurried = handing_over(store)
        _, settled = ended(store, worker)
        assert hurried.is_set()
        records = taken(store, worker)
        assert seen(records) == [("a", True), ("b", True)]
        assert not settled.done()
        confirm(store, worker, records)
        assert settled.result(PATIENCE_S) == [True, True]
    with working(rabbit_url) as (store, worker):
        store.offer("one", [Offer("later", b"{}")], round_robin=False)
        assert [claim.task_id for claim in claim_all(1, store, worker)] == ["later"]
        assert store.take_outbox(worker, 100, 10**6) == []


@pytest.mark.usefixtures("patient")
def test_results_on_their_way_to_the_sink_count_towards_the_outbox(rabbit_url: str) -> None:
    with working(rabbit_url) as (store, worker):
        handing_over(store)
        _, settled = ended(store, worker)
        store.offer("one", [Offer("c", b"{}")], round_robin=False)
        assert store.claim(ClaimRequest(worker, 8, OutboxLimits(2, 10**12))) == []
        confirm(store, worker, taken(store, worker))
        assert settled.result(PATIENCE_S) == [True, True]
        assert [claim.task_id for claim in claim_all(1, store, worker)] == ["c"]


def test_the_outbox_takes_what_a_slow_sink_does_not_confirm(rabbit_url: str) -> None:
    with working(rabbit_url) as (store, worker):
        handing_over(store)
        _, settled = ended(store, worker)
        store.take_outbox(worker, 100, 10**6)  # The sink hangs with these.
        assert settled.result(PATIENCE_S) == [True, True]
    with working(rabbit_url) as (store, worker):  # It was killed; the results were not lost.
        assert seen(taken(store, worker)) == [("a", False), ("b", False)]
        assert claim_up_to(1, store, worker) == []


def test_after_a_slow_result_the_next_ones_use_the_outbox(rabbit_url: str) -> None:
    with working(rabbit_url) as (store, worker):
        hurried = handing_over(store)
        _, settled = ended(store, worker)
        assert settled.result(PATIENCE_S) == [True, True]
        hurried.clear()
        _, settled = ended(store, worker)
        assert settled.result(PATIENCE_S) == [True, True]
        assert not hurried.is_set()


@pytest.mark.usefixtures("patient")
def test_a_direct_result_does_not_wait_for_those_in_the_outbox(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_results, "LOOK_EVERY_S", AGES_S)
    monkeypatch.setattr(direct_results, "BESIDE", 1)
    with working(rabbit_url) as (store, worker):
        _, settled = ended(store, worker)
        assert settled.result(PATIENCE_S) == [True, True]  # By the outbox: there is no sink yet.
        handing_over(store)
        (stored,) = taken(store, worker)
        assert not stored.holds_task
        _, settled = ended(store, worker)
        direct = taken(store, worker)
        assert seen(direct) == [("a", True), ("b", True)]
        confirm(store, worker, [stored, *direct])
        assert settled.result(PATIENCE_S) == [True, True]
        (other,) = taken(store, worker)
        assert {stored.task_id, other.task_id} == {"a", "b"}


@pytest.mark.usefixtures("patient")
def test_a_task_whose_worker_is_killed_before_the_sink_confirms_runs_again(
    rabbit_url: str,
) -> None:
    with working(rabbit_url) as (store, worker):
        handing_over(store)
        ended(store, worker)
        assert len(taken(store, worker)) == 2
    with working(rabbit_url) as (store, worker):
        assert sorted(claim.task_id for claim in claim_all(2, store, worker)) == ["a", "b"]
        assert store.take_outbox(worker, 100, 10**6) == []


@pytest.mark.usefixtures("patient")
def test_a_worker_that_leaves_stores_what_the_sink_has_not_confirmed(rabbit_url: str) -> None:
    with working(rabbit_url) as (store, worker):
        handing_over(store)
        _, settled = ended(store, worker)
        store.leave(worker)
        assert settled.result(PATIENCE_S) == [True, True]
    with working(rabbit_url) as (store, worker):
        assert seen(taken(store, worker)) == [("a", False), ("b", False)]
        assert claim_up_to(1, store, worker) == []


def test_what_waits_for_the_sink_when_the_connection_ends_is_settled_by_the_next(
    rabbit_url: str,
) -> None:
    with working(rabbit_url) as (store, worker):
        handing_over(store)
        claims, settled = ended(store, worker)
        session = store._link._session  # noqa: SLF001 - its end stands for an outage
        assert session is not None
        store._link.soon(session.close)  # noqa: SLF001 - must run on its own thread
        with pytest.raises((ChannelClosed, Unreachable)):
            settled.result(PATIENCE_S)
        wait_until(lambda: _settled(store, claims), PATIENCE_S, "they are settled again")
        assert {task_id for task_id, _ in seen(taken(store, worker))} == {"a", "b"}


def _settled(store: RabbitStore, claims: Sequence[Claim]) -> bool:
    try:
        return store.settle(good(claims)) == [True, True]
    except Unreachable:
        return False


def test_a_large_result_waits_in_the_outbox(rabbit_url: str) -> None:
    with working(rabbit_url) as (store, worker):
        hurried = handing_over(store)
        _, settled = ended(store, worker, bytes(direct_results.MAX_BYTES + 1))
        assert settled.result(PATIENCE_S) == [True, True]
        assert seen(taken(store, worker)) == [("a", False), ("b", False)]
        assert not hurried.is_set()


def _has_started(project: Project, number: int) -> bool:
    return len(project.journal("started")) > number


@pytest.mark.every_broker(but=("sqlite", "redis"), long=("rabbitmq",))
def test_workers_killed_amid_brief_runs_lose_no_result(project: Project) -> None:
    project.collection(number=4, max_queue_size=TASKS, max_crashes=KILLS + 2)
    project.send(*["echo 42"] * TASKS)
    fleet = project.work("--processes", "2")
    killed = set[int]()
    for kill in range(1, KILLS + 1):
        done = kill * TASKS // (KILLS + 2)
        wait_until(partial(_has_started, project, done), 60, "enough runs")
        pid = wait_until(lambda: sorted(fleet.pids - killed), 60, "a worker to kill")[0]
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    project.until(delivered=TASKS)
    fleet.stop()
    results = project.by_id()
    assert len(results) == TASKS
    assert {result["outcome"] for result in results.values()} == {"ok"}
