"""What a RabbitMQ worker knows of the channel that the server has closed."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq import cancel_marks, reception, verdicts
from agentpipe.brokers.rabbitmq.ahead import unread
from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.reception import Reception
from agentpipe.brokers.rabbitmq.services import Services
from agentpipe.brokers.rabbitmq.worker import RabbitWorker
from agentpipe.brokers.rabbitmq.worker_channel import REFUSED, WorkerChannel
from agentpipe.brokers.records import Settlement
from agentpipe.connections.amqp.channel import Channel, ChannelClosed
from agentpipe.core.delivered import Delivered
from agentpipe.errors import Unreachable
from tests.integration.rabbit_rig import (
    LONG_S,
    Rig,
    look_for_a_missing_queue,
    opened,
    until_set,
)
from tests.stores import PATIENCE_S, claim_all
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.rabbitmq.deliveries import Deliveries


def deliveries(rig: Rig) -> Deliveries:
    return rig.joined._deliveries  # noqa: SLF001 - no public name shows them


def judging(rig: Rig, queue: str = "toys") -> int:
    agents = deliveries(rig).agents
    return agents[queue].judging if queue in agents else 0


@contextmanager
def closed_unheard(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the server close the worker's channel before it hears that a task is acknowledged."""
    channel, acknowledge = rig.channel, WorkerChannel.acknowledge

    def err_and_acknowledge(its: WorkerChannel, *args: Any, **kwargs: Any) -> None:
        look_for_a_missing_queue(its.raw)
        acknowledge(its, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerChannel, "acknowledge", err_and_acknowledge)
        yield
        wait_until(lambda: not channel.is_open, PATIENCE_S, "the channel is closed")
    assert rig.store.heartbeat(rig.worker)


def run_in_turn(rig: Rig, *expected: tuple[str, int, int]) -> None:
    """Run what waits: ids, with their failures and crashes; then nothing is left."""
    rig.offer("toys", "last")  # All others are delivered before it.
    for each in (*expected, ("last", 0, 0)):
        (claim,) = claim_all(1, rig.store, rig.worker)
        assert (claim.task_id, claim.failures, claim.crashes) == each
        assert rig.settled([claim]) == [True]
    rig.store.leave(rig.worker)
    assert {queue.queue: queue.waiting for queue in rig.beside.stats().queues} == {
        "toys": 0,
        "others": 0,
    }


@contextmanager
def dead(rig: Rig, rabbit_url: str, *task_ids: str) -> Iterator[None]:
    """A worker has died that had these tasks, and ran the first; the rig's joins at the end."""
    rig.store.leave(rig.worker)
    with closing(opened(rabbit_url)) as store:
        store.join(replace(rig.worker, name="dead"))
        rig.offer("toys", *task_ids)
        claim_all(1, store, replace(rig.worker, name="dead"))
        agent = store._workers["dead"]._deliveries.agents["toys"]  # noqa: SLF001 - no public name shows it
        wait_until(
            lambda: len(agent.ready) == len(task_ids) - 1, PATIENCE_S, "the others lie there"
        )
    yield
    rig.store.join(rig.worker)


def have_judged(rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has died that ran ``a``, and the rig's waits for a verdict on it."""
    monkeypatch.setattr(verdicts, "PATIENCE_S", LONG_S)
    with dead(rig, rabbit_url, "a"):
        pass
    wait_until(lambda: judging(rig), PATIENCE_S, "it is delivered")


@pytest.mark.parametrize(
    ("action", "left"),
    [("complete", []), ("retry", [("a", 1, 0)]), ("release", [("a", 0, 0), ("a", 0, 0)])],
)
def test_what_was_settled_unheard_is_not_taken_for_a_crash(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    action: Any,
    left: list[tuple[str, int, int]],
) -> None:
    """Regression: it ran again, and counted a crash. What is released has an equal copy."""
    (run,) = rig.run("toys", "a")
    with closed_unheard(rig, monkeypatch):
        assert rig.store.settle([Settlement(run, action, b"{}", "ok")]) == [True]
    rig.offer("toys", "next")
    run_in_turn(rig, *left, ("next", 0, 0))


def test_of_a_batch_that_is_refused_in_part_the_rest_is_replaced(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: its copies were stored, and stored again each time that the batch was tried."""
    publish, queues, pairs = Channel.publish, ("toys", "others"), []

    async def refuse(its: Channel, messages: Any) -> Any:
        await publish(its, [each for each in messages if "others" not in each.key])
        return ["refused" if "others" in each.key else "taken" for each in messages]

    async def replace_both(services: Services) -> None:
        for agent in (deliveries(rig).agents[queue] for queue in queues):
            (it,) = agent.ready
            agent.ready.clear()
            pairs.append((it.message.to(services.topology.back(it.message.queue)), it.tag))
        await rig.joined._channel.replace(pairs)  # noqa: SLF001 - no operation has such a batch

    for queue in queues:
        rig.offer(queue, f"of-{queue}")
    wait_until(
        lambda: all(deliveries(rig).agents[queue].ready for queue in queues), PATIENCE_S, "delivery"
    )
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "publish", refuse)
        with pytest.raises(Unreachable, match="refuses"):
            rig.store._run(replace_both)  # noqa: SLF001 - as above
    rig.store.leave(rig.worker)
    assert {queue.queue: queue.waiting for queue in rig.beside.stats().queues} == dict.fromkeys(
        queues, 1
    )


def test_what_is_being_put_back_counts_no_crash(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it was neither known to run nor to wait."""
    runs = rig.run("toys", "runs")
    rig.offer("toys", "waits")
    wait_until(deliveries(rig).ready, PATIENCE_S, "it lies ready")
    put_back, channel = WorkerChannel.put_back, rig.channel

    async def err_and_put_back(its: WorkerChannel, tasks: Any) -> None:
        look_for_a_missing_queue(its.raw)
        await put_back(its, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerChannel, "put_back", err_and_put_back)
        rig.beside.pause(queues=["toys"], paused=True)
        wait_until(lambda: not channel.is_open, PATIENCE_S, "the channel is closed")
    rig.beside.pause(queues=["toys"], paused=False)
    assert rig.settled(runs) == [True]
    run_in_turn(rig, ("waits", 0, 0))


def test_what_was_just_spared_stays_spared(
    rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: its verdict was carried out, so the next channel found none."""
    carry_out, may_go_on = Services.carry_out, threading.Event()

    async def carry_out_and_stop(services: Services, *spared: Delivered) -> None:
        await carry_out(services, *spared)
        look_for_a_missing_queue(rig.channel)
        await until_set(may_go_on)

    with dead(rig, rabbit_url, "a"):
        rig.beside.spare([Delivered("a", 0, begun=True)], [])
        monkeypatch.setattr(Services, "carry_out", carry_out_and_stop)
    channel = rig.channel
    wait_until(lambda: not channel.is_open, PATIENCE_S, "the channel is closed")
    assert rig.store.heartbeat(rig.worker)
    may_go_on.set()
    run_in_turn(rig, ("a", 0, 0))


def test_what_was_blamed_unheard_counts_one_crash(
    rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was blamed again, and was there twice."""
    have_judged(rig, rabbit_url, monkeypatch)
    with closed_unheard(rig, monkeypatch):
        rig.beside.spare([], [Delivered("a", 0, begun=True)])
    run_in_turn(rig, ("a", 0, 1))


def test_a_report_of_a_workers_end_covers_what_comes_to_the_next_channel(
    rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was carried out at once, and what had not begun counted a crash."""
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
    with dead(rig, rabbit_url, "a", "b"):
        rig.beside.pause(queues=["toys"], paused=True)
    wait_until(lambda: "toys" in deliveries(rig).agents, PATIENCE_S, "it serves the agent")
    rig.beside.spare([unread("toys")], [])
    wait_until(lambda: not is_open(rig, unread("toys")), PATIENCE_S, "the report is carried out")
    rig.have_closed(look_for_a_missing_queue)
    assert rig.store.heartbeat(rig.worker)
    rig.beside.pause(queues=["toys"], paused=False)
    run_in_turn(rig, ("a", 0, 0), ("b", 0, 0))


def is_open(rig: Rig, delivered: Delivered) -> bool:
    """Whether there is a verdict on the delivery that was not carried out, by the server."""

    async def read(services: Services) -> bool:
        await services.verdicts.read()
        return services.verdicts.is_open(delivered)

    return rig.beside._run(read)  # noqa: SLF001 - no operation shows it


def test_a_blamed_task_that_the_server_refuses_is_not_delivered_again_and_again(
    rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: hundreds of times a second, until the server accepted its copy."""
    received: list[str] = []
    receive, replaced, is_refusing = Reception.receive, WorkerChannel.replace, threading.Event()
    is_refusing.set()

    def note(its: Reception, *args: Any, **kwargs: Any) -> None:
        received.append(args[0].queue.name)
        receive(its, *args, **kwargs)

    async def refuse(channel: WorkerChannel, pairs: Any) -> None:
        if is_refusing.is_set():
            raise ChannelClosed(REFUSED)
        await replaced(channel, pairs)

    monkeypatch.setattr(reception, "AGAIN_S", 0.01)
    monkeypatch.setattr(Reception, "receive", note)
    monkeypatch.setattr(WorkerChannel, "replace", refuse)
    with dead(rig, rabbit_url, "a"):
        rig.beside.spare([], [Delivered("a", 0, begun=True)])
        received.clear()
    wait_until(lambda: judging(rig), PATIENCE_S, "it is delivered")
    for number in range(10):
        assert rig.settled(rig.run("others", f"other-{number}")) == [True]
    assert received.count("toys") == 1
    is_refusing.clear()
    wait_until(deliveries(rig).ready, PATIENCE_S, "its copy is delivered")
    run_in_turn(rig, ("a", 0, 1))


def test_a_worker_that_joined_meanwhile_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the successor of the one that had lost its lease took its place."""
    before, open_, may_go_on = rig.joined, RabbitWorker.open, threading.Event()

    opens = threading.Event()

    async def slowly(worker: RabbitWorker) -> None:
        await open_(worker)
        opens.set()
        await until_set(may_go_on)

    rig.have_closed(look_for_a_missing_queue)
    with monkeypatch.context() as patch:
        patch.setattr(RabbitWorker, "open", slowly)
        asking = threading.Thread(target=rig.store.stats)
        asking.start()
        assert opens.wait(PATIENCE_S)
        before._lapses_at = 0.0  # noqa: SLF001 - as if the server had not answered for so long
    rig.store.join(rig.worker)
    joined = rig.joined
    may_go_on.set()
    asking.join()
    assert rig.joined is joined
    run = rig.run("toys", "a")
    assert rig.settled(run) == [True]


def test_a_cancel_covers_what_is_being_judged(
    rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: with a clock that is behind, a cancel by a filter spared it."""
    have_judged(rig, rabbit_url, monkeypatch)
    with monkeypatch.context() as clock:
        clock.setattr(cancel_marks, "now_ms", lambda: now_ms() - 3_600_000)
        rig.beside.cancel(["a"])
    assert rig.beside.locate("a").place == "waiting"
    rig.beside.spare([Delivered("a", 0, begun=True)], [])
    (claim,) = claim_all(1, rig.store, rig.worker)
    assert claim.cancelled


def test_a_worker_makes_the_exchange_of_the_fleet_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    call = Channel.call

    async def noted(channel: Channel, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "exchange_declare":
            made.append(args[0])
        return await call(channel, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Channel, "call", noted)
        rig.store.join(rig.worker)
    fleet = rig.joined._topology.fleet  # noqa: SLF001 - no public name shows it
    assert made.count(fleet) == 1
