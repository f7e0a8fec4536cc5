"""On RabbitMQ, a worker claims its next tasks while the server stores the last results."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq import RabbitStore, served_agent
from agentpipe.brokers.rabbitmq.served_agent import AHEAD, BRIEF_RUNS, DEEP_AHEAD, ServedAgent
from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Worker
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.errors import Unreachable
from agentpipe.settings import OutboxLimits
from tests.integration.rabbit_worker import Working, worker_of
from tests.stores import PATIENCE_S, ROOMY, claim_all, claim_up_to, good
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.records import Claim


def working(rabbit_url: str, concurrency: int = 1) -> Working:
    return worker_of(rabbit_url, Queue("one", None, 100, concurrency, max_crashes=5))


def offered(store: RabbitStore, number: int) -> None:
    tasks = [Offer(f"t{index}", b"{}") for index in range(number)]
    store.offer("one", tasks, round_robin=False)


def results(store: RabbitStore, worker: Worker) -> list[str]:
    return sorted(record.task_id for record in store.take_outbox(worker, 100, 10**6))


def _settling_two(
    store: RabbitStore, worker: Worker, request: ClaimRequest | None
) -> tuple[list[Claim], Future[list[bool]], list[Claim] | None]:
    """Settle two runs of eight; returns their claims, the answer, and what ``request`` claimed."""
    offered(store, 8)
    first = claim_all(2, store, worker)
    wait_until(lambda: _ready(store, worker) == 2, PATIENCE_S, "two lie ready")
    begun = store.settle_meanwhile(good(first), request)
    assert begun is not None
    return first, *begun


def test_as_many_as_may_run_are_claimed_while_the_last_ones_are_settled(
    rabbit_url: str, rabbitmq_disk: threading.Event
) -> None:
    with working(rabbit_url, concurrency=2) as (store, worker):
        first, settled, second = _settling_two(store, worker, ClaimRequest(worker, 8, ROOMY))
        if second is None:  # The outbox had to be checked first.
            second = claim_up_to(8, store, worker)
        assert len(second) == 2
        assert not settled.done()
        assert claim_up_to(8, store, worker) == []
        rabbitmq_disk.set()
        assert settled.result(PATIENCE_S) == [True, True]
        assert store.settle(good(first)) == [False, False]
        assert store.settle(good(second)) == [True, True]
        wait_until(lambda: len(claim_up_to(1, store, worker)) == 1, PATIENCE_S, "the next one")


def test_results_that_are_being_stored_count_towards_the_outbox(
    rabbit_url: str, rabbitmq_disk: threading.Event
) -> None:
    with working(rabbit_url, concurrency=2) as (store, worker):
        _, settled, _ = _settling_two(store, worker, None)
        assert store.claim(ClaimRequest(worker, 8, OutboxLimits(2, 10**12))) == []
        assert len(claim_up_to(8, store, worker)) == 2
        rabbitmq_disk.set()
        assert settled.result(PATIENCE_S) == [True, True]


def test_more_lies_ready_of_an_agent_as_long_as_its_runs_are_brief(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_agent, "BRIEF_S", 60.0)  # Also on a machine that is busy.
    monkeypatch.setattr(served_agent, "DEEP_S", 0.0)
    with working(rabbit_url) as (store, worker):
        offered(store, 100)
        _settled_in_turn(store, worker, BRIEF_RUNS)
        wait_until(lambda: _ready(store, worker) > AHEAD, PATIENCE_S, "many lie ready")
        first = claim_up_to(8, store, worker)
        assert len(first) == 1
        assert store.settle(good(first)) == [True]
        monkeypatch.setattr(served_agent, "BRIEF_S", 0.0)
        _settled_in_turn(store, worker, 2 * AHEAD)
        wait_until(lambda: _ready(store, worker) == 2, PATIENCE_S, "two lie ready")
        _settled_in_turn(store, worker, 99 - BRIEF_RUNS - 2 * AHEAD)
        assert len(set(results(store, worker))) == 100


def test_far_more_lie_ready_of_an_agent_whose_runs_take_milliseconds(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_agent, "BRIEF_S", 60.0)  # Also on a machine that is busy.
    monkeypatch.setattr(served_agent, "DEEP_S", 60.0 * DEEP_AHEAD)
    with working(rabbit_url) as (store, worker):
        offered(store, 100)
        _settled_in_turn(store, worker, BRIEF_RUNS)
        left = 100 - BRIEF_RUNS
        wait_until(lambda: _ready(store, worker) == left, PATIENCE_S, "all lie ready")
        _settled_in_turn(store, worker, left)
        assert len(set(results(store, worker))) == 100


def test_more_lies_ready_at_once_although_a_run_is_always_being_settled(
    rabbit_url: str, rabbitmq_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with brief runs would otherwise pause until all of them are settled."""
    monkeypatch.setattr(served_agent, "BRIEF_S", 60.0)  # Also on a machine that is busy.
    with working(rabbit_url) as (store, worker):
        offered(store, 100)
        rabbitmq_disk.set()
        _settled_in_turn(store, worker, BRIEF_RUNS - 1)
        rabbitmq_disk.clear()
        begun = store.settle_meanwhile(good(claim_all(1, store, worker)), None)
        assert begun is not None
        wait_until(lambda: _ready(store, worker) > AHEAD, PATIENCE_S, "many lie ready")
        assert not begun[0].done()
        rabbitmq_disk.set()
        assert begun[0].result(PATIENCE_S) == [True]


def test_a_run_is_measured_once_although_its_settlement_is_repeated(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the agent's mean duration counted it twice, the second time too long."""
    measured: list[float] = []
    publish, refusals = WorkerChannel.publish, iter([ChannelClosed("refused")])
    monkeypatch.setattr(ServedAgent, "note_run", lambda _, run_s, __: measured.append(run_s))

    async def refused_once(channel: WorkerChannel, messages: Any) -> None:
        for refusal in refusals:
            raise refusal
        await publish(channel, messages)

    with working(rabbit_url) as (store, worker):
        offered(store, 2)
        for run in (1, 2):
            claims = claim_all(1, store, worker)
            monkeypatch.setattr(WorkerChannel, "publish", refused_once)
            begun = store.settle_meanwhile(good(claims), None)
            assert begun is not None
            assert isinstance(begun[0].exception(PATIENCE_S), ChannelClosed | type(None))
            assert store.settle(good(claims)) == [run == 1]
            assert len(measured) == run


def test_a_worker_leaves_when_what_it_settles_is_settled(
    rabbit_url: str, rabbitmq_disk: threading.Event
) -> None:
    """Otherwise the task would be returned as well."""
    with working(rabbit_url) as (store, worker):
        offered(store, 1)
        begun = store.settle_meanwhile(good(claim_all(1, store, worker)), None)
        assert begun is not None
        leaving = threading.Thread(target=store.leave, args=(worker,))
        leaving.start()
        rabbitmq_disk.set()
        leaving.join(PATIENCE_S)
        assert begun[0].result(PATIENCE_S) == [True]
    with working(rabbit_url) as (store, worker):
        wait_until(lambda: results(store, worker) == ["t0"], PATIENCE_S, "its result")
        assert claim_up_to(1, store, worker) == []


def test_what_is_settled_when_the_connection_ends_is_settled_by_the_next(
    rabbit_url: str, rabbitmq_disk: threading.Event
) -> None:
    with working(rabbit_url) as (store, worker):
        offered(store, 1)
        claims = claim_all(1, store, worker)
        begun = store.settle_meanwhile(good(claims), None)
        assert begun is not None
        session = store._link._session  # noqa: SLF001 - its end stands for an outage
        assert session is not None
        store._link.soon(session.close)  # noqa: SLF001 - must run on its own thread
        wait_until(lambda: not session.is_open, PATIENCE_S, "the connection has ended")
        rabbitmq_disk.set()
        with pytest.raises(ChannelClosed):
            begun[0].result(PATIENCE_S)
        wait_until(lambda: _settled(store, claims), PATIENCE_S, "it is settled again")
        assert results(store, worker) == ["t0"]


def _settled(store: RabbitStore, claims: Sequence[Claim]) -> bool:
    try:
        return store.settle(good(claims)) == [True]
    except Unreachable:
        return False


def _settled_in_turn(store: RabbitStore, worker: Worker, number: int) -> None:
    for _ in range(number):
        assert store.settle(good(claim_all(1, store, worker))) == [True]


def _ready(store: RabbitStore, worker: Worker) -> int:
    return len(store._workers[worker.name]._deliveries.ready())  # noqa: SLF001 - no public name shows deliveries
