"""On RabbitMQ, what may end its worker does not run while tasks there exist twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.connections.amqp.channel import Channel
from agentpipe.core.delivered import Delivered
from tests.integration.rabbit_delays import skipped_delays
from tests.integration.rabbit_worker import Working, worker_of
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from agentpipe.brokers.rabbitmq import RabbitStore
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries

TASKS = 4
NAMES = ("one", "two")


def working(rabbit_url: str) -> Working:
    queues = [Queue(name, None, 100, TASKS, max_crashes=9) for name in NAMES]
    return worker_of(rabbit_url, *queues)


def claimed(store: RabbitStore, worker: Worker, number: int) -> list[str]:
    found: list[str] = []

    def all_there() -> bool:
        found.extend(claim.task_id for claim in claim_up_to(10, store, worker))
        return len(found) >= number

    wait_until(all_there, 30, f"{number} claims")
    return sorted(found)


def deliveries(store: RabbitStore, worker: Worker) -> Deliveries:
    return store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows them


def has_ready(store: RabbitStore, worker: Worker, name: str, number: int) -> bool:
    agents = deliveries(store, worker).agents
    return name in agents and len(agents[name].ready) == number


def test_a_culprit_begins_after_what_is_being_put_back(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it ended the worker between copies and acknowledgements: all were there twice."""
    skipped_delays(monkeypatch)
    with working(rabbit_url) as (store, worker):
        store.offer("two", [Offer("culprit", b"{}")], round_robin=False)
        claimed(store, worker, 1)
        store.spare([], [Delivered("culprit", 0, begun=True, culprit=True)])  # As its watcher does.
    offers = [Offer(f"t{number}", b"{}") for number in range(TASKS)]
    with working(rabbit_url) as (store, worker):
        wait_until(lambda: has_ready(store, worker, "two", 1), 30, "the culprit lies there")
        store.offer("one", offers, round_robin=False)
        wait_until(lambda: has_ready(store, worker, "one", TASKS), 30, "the others do, too")
        go_on = put_back_copies(store, worker, monkeypatch)
        if not claim_up_to(10, store, worker):  # Otherwise the culprit ends the worker here.
            go_on()
            assert claimed(store, worker, 1) == ["culprit"]
    monkeypatch.undo()
    with working(rabbit_url) as (store, worker):
        assert claimed(store, worker, TASKS + 1) == ["culprit", *(it.task_id for it in offers)]
        assert store.stats().queues[0].waiting == 0


def put_back_copies(
    store: RabbitStore, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Begin to put the tasks of ``one`` back; what is returned has the originals acknowledged."""
    joined, publish = store._workers[worker.name], Channel.publish  # noqa: SLF001 - no operation does half of it
    agent = deliveries(store, worker).agents["one"]
    may_go_on: list[bool] = []
    published: list[Any] = []

    async def stopping(channel: Channel, messages: Any) -> Any:
        fates = await publish(channel, messages)
        if any(".one." in message.key for message in messages):
            published.extend(messages)
            while not may_go_on:  # noqa: ASYNC110 - another thread makes it go on
                await asyncio.sleep(0.005)
        return fates

    def withdraw() -> None:
        joined._channel.begin(joined._consumption.withdraw(agent))  # noqa: SLF001 - as when the agent is given up

    monkeypatch.setattr(Channel, "publish", stopping)
    store._link.soon(withdraw)  # noqa: SLF001 - on its loop
    wait_until(lambda: len(published) == TASKS, 30, "the copies are on the server")
    return lambda: may_go_on.append(True)
