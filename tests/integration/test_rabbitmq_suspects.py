"""With a limit of one crash, RabbitMQ blames only a task that ran alone and did not end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.messages import Message, now_ms
from agentpipe.brokers.rabbitmq.settlement import Settling
from agentpipe.brokers.rabbitmq.suspects import Suspects
from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
from agentpipe.brokers.records import Queue, Settlement, Worker
from agentpipe.connections.amqp.channel import Channel
from agentpipe.core.delivered import Delivered
from tests.integration.rabbit_worker import Working, worker_of
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from agentpipe.brokers.rabbitmq import RabbitStore
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Claim

AGENTS = ("one", "two")


def living(rabbit_url: str) -> Working:
    return worker_of(rabbit_url, *(Queue(name, None, 100, 10, max_crashes=1) for name in AGENTS))


def lay(store: RabbitStore, queue: str, task_id: str, **state: Any) -> None:
    """Publish a task as if it had been returned."""

    async def publish(services: Services) -> None:
        message = Message(task_id, queue, b"{}", submitted_ms=now_ms(), **state)
        await services.publish([message.to(services.topology.back(queue))])

    store._run(publish)  # noqa: SLF001 - as a worker does after another's death


def known_here(store: RabbitStore, worker: Worker) -> list[str]:
    deliveries = store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows deliveries
    return [each.message.task_id for _, each in deliveries.ready()]


def claimed(store: RabbitStore, worker: Worker) -> Claim:
    (found,) = wait_until(lambda: claim_up_to(1, store, worker), 30, "a claim")
    return found


def answer(store: RabbitStore, claim: Claim) -> None:
    assert store.settle([Settlement(claim, "complete", b"{}", "ok")]) == [True]


def crashes(rabbit_url: str, *task_ids: str) -> dict[str, int]:
    """Each task's crash count, as the next worker sees it."""
    found: dict[str, int] = {}
    with living(rabbit_url) as (store, worker):
        for _ in task_ids:
            claim = claimed(store, worker)
            found[claim.task_id] = claim.crashes
            answer(store, claim)
    assert sorted(found) == sorted(task_ids)
    return found


def marks(store: RabbitStore) -> dict[str, int]:
    return store._run(lambda services: services.suspects._state.read())  # noqa: SLF001 - no public name shows the state


def test_a_suspect_is_not_overtaken_between_its_mark_and_its_run(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was marked but still waiting when another task killed the worker."""
    mark = Suspects.mark
    with monkeypatch.context() as overtaking, living(rabbit_url) as (store, worker):

        async def overtaken(suspects: Suspects, message: Message) -> None:
            services = store._services  # noqa: SLF001 - to publish on the store's loop
            assert services is not None
            second = Message("second", "one", b"{}", submitted_ms=now_ms(), suspect=1)
            await services.publish([second.to(services.topology.back("one"))])
            while "second" not in known_here(store, worker):  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0.01)
            await mark(suspects, message)

        overtaking.setattr(Suspects, "mark", overtaken)
        lay(store, "two", "first", suspect=1)
        killer = claimed(store, worker).task_id
        assert killer == "first"
        assert claim_up_to(1, store, worker) == []
    assert crashes(rabbit_url, "first", "second") == {"first": 1, "second": 0}


def test_a_suspect_that_was_not_handed_out_is_not_blamed(rabbit_url: str) -> None:
    """Regression: it was marked although the worker could not claim it before its death."""
    with living(rabbit_url) as (store, worker):
        lay(store, "one", "suspect", suspect=1)
        wait_until(lambda: "suspect" in known_here(store, worker), 30, "it is here")
        handed_out = len(claim_up_to(1, store, worker))
        wait_until(lambda: marks(store), 30, "it is marked")
    assert crashes(rabbit_url, "suspect") == {"suspect": handed_out}


def test_a_suspect_that_did_not_begin_is_not_blamed_for_its_mark(rabbit_url: str) -> None:
    with living(rabbit_url) as (store, worker):
        lay(store, "one", "suspect", suspect=1)
        claimed(store, worker)
        assert marks(store)
        store.spare([Delivered("suspect", 0)], [])  # As the worker's supervisor does.
    assert crashes(rabbit_url, "suspect") == {"suspect": 0}


def test_of_two_copies_of_a_suspect_one_is_not_blamed_by_the_mark_of_the_other(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died while it returned a dead worker's task left two copies."""
    monkeypatch.setattr("agentpipe.brokers.rabbitmq.worker.random.shuffle", list.sort)
    with living(rabbit_url) as (store, worker):
        lay(store, "two", "twice")
        claimed(store, worker)
    with monkeypatch.context() as dying:
        dying.setattr(WorkerChannel, "replace", _only_publish)
        with living(rabbit_url) as (store, worker):
            wait_until(lambda: known_here(store, worker) == ["twice"], 30, "its copy is here")
    with living(rabbit_url) as (store, worker):
        wait_until(lambda: known_here(store, worker) == ["twice"] * 2, 30, "both are here")
        answer(store, claimed(store, worker))
        lay(store, "one", "killer", suspect=1)
        wait_until(lambda: "killer" in known_here(store, worker), 30, "the killer is here")
        assert claimed(store, worker).task_id == "killer"
    assert crashes(rabbit_url, "twice", "killer") == {"twice": 0, "killer": 1}


async def _only_publish(channel: WorkerChannel, pairs: Sequence[tuple[Any, int]]) -> None:
    await channel.publish([message for message, _ in pairs])


def test_a_suspect_that_was_answered_is_not_blamed_for_what_runs_next(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the worker's unread acknowledgement was lost with its connection."""
    unread: list[Any] = []
    acknowledge, catch_up = Channel.ack_all, Channel.catch_up
    carry_out = Settling._carry_out  # noqa: SLF001 - the test delays one of its steps
    settling = False

    async def read(channel: Channel) -> None:
        for each in [it for it in unread if settling and it[0] is channel]:
            unread.remove(each)
            acknowledge(*each)
        await catch_up(channel)

    async def settle(parts: Settling, pairs: Any) -> None:
        nonlocal settling
        settling = True
        await carry_out(parts, pairs)
        settling = False

    with monkeypatch.context() as slow, living(rabbit_url) as (store, worker):
        lay(store, "one", "innocent", suspect=1)
        first = claimed(store, worker)
        slow.setattr(Channel, "ack_all", lambda *it: unread.append(it))
        slow.setattr(Channel, "catch_up", read)
        slow.setattr(Settling, "_carry_out", settle)
        answer(store, first)
        lay(store, "two", "killer", suspect=1)
        assert claimed(store, worker).task_id == "killer"
    with living(rabbit_url) as (store, worker):
        found = claimed(store, worker)
        assert (found.task_id, found.crashes) == ("killer", 1)
        answer(store, found)
        assert claim_up_to(1, store, worker) == []
        assert store.stats().queues[0].waiting == 0
