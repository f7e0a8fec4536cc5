"""On RabbitMQ, a cancel from a machine with another clock covers what workers have by then."""

from __future__ import annotations

import threading
import uuid
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.capabilities import TaskFilter
from agentpipe.brokers.rabbitmq import RabbitStore, cancel_marks, rpc
from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from tests.stores import PATIENCE_S, claim_all
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentpipe.brokers.rabbitmq.services import Services
    from brokers.server_rabbitmq import RabbitServer

HOUR_MS = 3_600_000


@pytest.fixture
def opened(rabbitmq_server: RabbitServer) -> Iterator[Callable[[], RabbitStore]]:
    """Opens the store as one process more."""
    url = f"{rabbitmq_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:

        def open_one() -> RabbitStore:
            store = stack.enter_context(closing(open_store(Settings(broker=url))))
            assert isinstance(store, RabbitStore)
            store.declare([Queue("one", None, 100, 1, max_crashes=5)])
            return store

        yield open_one


def by_ids(store: RabbitStore) -> bool:
    return store.cancel(["runs", "ready"]) == ["signalled", "marked"]


def by_filter(store: RabbitStore) -> bool:
    return store.cancel_matching(TaskFilter(("one",))) == ["runs"]


@pytest.mark.parametrize("cancel", [by_ids, by_filter])
def test_a_clock_that_is_behind_spares_nothing_that_a_worker_has(
    opened: Callable[[], RabbitStore],
    monkeypatch: pytest.MonkeyPatch,
    cancel: Callable[[RabbitStore], bool],
) -> None:
    """Regression: what was sent after that clock's time went on, as if it were sent later."""
    store, operator = opened(), opened()
    worker = Worker(f"w-{uuid.uuid4().hex}", slots=2, queues=frozenset({"one"}), lease_s=60)
    store.join(worker)
    store.offer("one", [Offer(each, b"{}") for each in ("runs", "ready")], round_robin=False)
    (running,) = claim_all(1, store, worker)
    deliveries = store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows deliveries
    wait_until(deliveries.ready, PATIENCE_S, "the other one lies ready")
    with monkeypatch.context() as clock:
        clock.setattr(cancel_marks, "now_ms", lambda: now_ms() - HOUR_MS)
        assert cancel(operator)
    assert store.take_cancelled() == ["runs"]
    assert store.settle([Settlement(running, "complete", b"{}", "cancelled")]) == [True]
    (waiting,) = claim_all(1, store, worker)
    assert (waiting.task_id, waiting.cancelled) == ("ready", True)
    store.leave(worker)
    other = opened()
    other.join(worker)
    assert [it.cancelled for it in claim_all(1, other, worker)] == [True]


def test_a_task_that_was_sent_after_a_cancel_is_not_covered(
    opened: Callable[[], RabbitStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was, if the worker's process stood still in between."""
    monkeypatch.setattr(rpc, "ANSWER_S", 0.1)
    store, operator, goes_on = opened(), opened(), threading.Event()
    worker = Worker(f"w-{uuid.uuid4().hex}", slots=2, queues=frozenset({"one"}), lease_s=60)
    store.join(worker)
    store.offer("one", [Offer("before", b"{}")], round_robin=False)
    deliveries = store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows deliveries
    wait_until(deliveries.ready, PATIENCE_S, "it lies ready")
    store._link.soon(partial(stand_still, goes_on))  # noqa: SLF001 - its thread stands still
    operator.cancel_matching(TaskFilter(("one",)))
    operator.offer("one", [Offer("after", b"{}")], round_robin=False)
    wait_until(lambda: operator._run(waiting) == 0, PATIENCE_S, "it is delivered")  # noqa: SLF001 - no operation shows it
    goes_on.set()
    wait_until(lambda: len(deliveries.ready()) == 2, PATIENCE_S, "both are read")
    store.stats()  # All that was asked before is answered.
    for task_id in ("before", "after"):
        (claim,) = claim_all(1, store, worker)
        assert (claim.task_id, claim.cancelled) == (task_id, task_id == "before")
        assert store.settle([Settlement(claim, "complete", b"{}", "ok")]) == [True]


def stand_still(until: threading.Event) -> None:
    until.wait(PATIENCE_S)


async def waiting(services: Services) -> int:
    """The number of tasks that wait on the server."""
    sources = [
        it for queue in services.registry.current() for it in services.registry.sources(queue)
    ]
    return sum((await services.queues.depths([it.name for it in sources])).values())
