"""A worker that leaves RabbitMQ returns all prefetched tasks, without counting crashes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.connections.amqp.channel import Channel
from tests.integration.rabbit_worker import Working, worker_of
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq import RabbitStore
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.rabbitmq.worker import RabbitWorker

TASKS = 4


def working(rabbit_url: str) -> Working:
    return worker_of(rabbit_url, Queue("one", None, 100, TASKS, max_crashes=5))


def with_tasks(store: RabbitStore, worker: Worker) -> RabbitWorker:
    """The worker, after all tasks were delivered to it."""
    tasks = [Offer(f"t{number}", b"{}") for number in range(TASKS)]
    store.offer("one", tasks, round_robin=False)
    joined = store._workers[worker.name]  # noqa: SLF001 - no public name shows deliveries
    deliveries = joined._deliveries  # noqa: SLF001 - no public name shows deliveries
    wait_until(lambda: len(deliveries.ready()) == TASKS, 30, "all lie there")
    return joined


def crashes(rabbit_url: str) -> list[int]:
    """Crash counts of all tasks, as the next worker sees them; duplicates would add entries."""
    found: list[int] = []
    with working(rabbit_url) as (store, worker):

        def all_there() -> bool:
            found.extend(claim.crashes for claim in claim_up_to(10, store, worker))
            return len(found) >= TASKS

        wait_until(all_there, 30, "all are claimed")
        assert store.stats().queues[0].waiting == 0
    return found


@pytest.mark.parametrize("turns", range(4))
def test_a_worker_leaves_just_when_it_looks_after_its_agents(rabbit_url: str, turns: int) -> None:
    """Regression: the worker's steward missed its dismissal, and closed the channel."""
    with working(rabbit_url) as (store, worker):
        joined = with_tasks(store, worker)

        async def leave(_: Services) -> None:
            joined._look.set()  # noqa: SLF001 - as when another worker joins
            for _turn in range(turns):
                await asyncio.sleep(0)
            await joined.leave()

        store._run(leave)  # noqa: SLF001 - at an exact turn of the loop
    assert crashes(rabbit_url) == [0] * TASKS


def test_a_worker_leaves_while_it_gives_an_agent_back(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: copies of its tasks were published, and the originals delivered again."""
    with monkeypatch.context() as slow, working(rabbit_url) as (store, worker):
        joined, begun = with_tasks(store, worker), []
        publish = Channel.publish

        async def slowly(channel: Channel, messages: Any) -> Any:
            fates = await publish(channel, messages)
            if any(message.lasting for message in messages):
                begun.append(messages)
                while not joined._reception.is_closed:  # noqa: ASYNC110, SLF001 - another thread makes it leave
                    await asyncio.sleep(0.005)
            return fates

        slow.setattr(Channel, "publish", slowly)
        store._link.soon(joined.drain)  # noqa: SLF001 - as on another process's request
        wait_until(lambda: begun, 30, "it has begun to give back")
        store.leave(worker)
    assert crashes(rabbit_url) == [0] * TASKS
