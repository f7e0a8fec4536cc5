"""RabbitMQ only: an agent's queues are deleted while a worker has tasks of it."""

from __future__ import annotations

import uuid
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore
from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from tests.integration.rabbit_queues import delete_queues
from tests.stores import claim_all, good
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store

QUEUE = Queue("toys", None, 10, 4, 9)


@pytest.mark.parametrize("consumers", [1, 2])
@pytest.mark.parametrize("action", ["complete", "release"])
def test_the_end_of_a_run_whose_queue_was_deleted_removes_no_other_task(
    rabbit_url: str, action: Literal["complete", "release"], consumers: int
) -> None:
    """Regression: new tasks were removed while they ran, and lost if their worker died."""
    with closing(open_store(Settings(broker=rabbit_url))) as store:
        worker = _joined(store)
        _offer(store, "ab")
        old = claim_all(2, store, worker)
        if consumers == 2:  # The server announces the deletion only to the second.
            _consume_again(store, worker)
        delete_queues(rabbit_url, QUEUE)
        _offer(store, "cd")
        claim_all(2, store, worker)
        ends = good(old) if action == "complete" else [Settlement(it, action) for it in old]
        assert store.settle(ends) == [True, True]
    left = "cd" if action == "complete" else "abcd"
    with closing(open_store(Settings(broker=rabbit_url))) as store:
        again = claim_all(len(left), store, _joined(store))
    assert sorted(it.task_id for it in again) == sorted(left)


def _joined(store: Store) -> Worker:
    worker = Worker(f"w-{uuid.uuid4().hex}", queues=frozenset({"toys"}), lease_s=60)
    store.declare([QUEUE])
    store.join(worker)
    return worker


def _offer(store: Store, task_ids: str) -> None:
    offers = [Offer(task_id, b"{}") for task_id in task_ids]
    assert {*store.offer("toys", offers, round_robin=False).verdicts} == {"accepted"}


def _consume_again(store: Store, worker: Worker) -> None:
    assert isinstance(store, RabbitStore)
    agent = store._workers[worker.name]._deliveries.agents["toys"]  # noqa: SLF001 - no public name shows it
    wait_until(lambda: len(agent.consumers) == 2, 30, "both queues are consumed")
    first = dict(agent.consumers)
    store.declare([replace(QUEUE, concurrency=QUEUE.concurrency + 1)])
    wait_until(
        lambda: len(agent.consumers) == 2 and first.items().isdisjoint(agent.consumers.items()),
        30,
        "both queues are consumed again",
    )
