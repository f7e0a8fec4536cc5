"""A worker on RabbitMQ that is connected again within its lease keeps its runs."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq import RabbitStore, awaited_runs, served_agent
from agentpipe.brokers.rabbitmq import worker as worker_module
from agentpipe.brokers.rabbitmq.served_agent import AHEAD, BRIEF_RUNS
from agentpipe.brokers.records import Queue, Settlement
from agentpipe.errors import Unreachable
from tests.integration.rabbit_queues import delete_queues
from tests.integration.rabbit_rig import LONG_S, QUEUES, opened
from tests.integration.rounds import Rounds
from tests.stores import PATIENCE_S, claim_all, claim_up_to, good
from tests.support import wait_until

if TYPE_CHECKING:
    import threading

    import pytest

    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.rabbitmq.worker import RabbitWorker
    from agentpipe.brokers.records import Claim
    from tests.integration.rabbit_rig import Rig


def test_a_run_whose_task_is_gone_is_lost_alone(rig: Rig, rabbit_url: str) -> None:
    """Regression: the worker lost its lease, and with it all runs."""
    (gone,), (kept,) = rig.run("toys", "gone"), rig.run("others", "kept")
    with rig.away():
        delete_queues(rabbit_url, QUEUES[0])
        rig.offer("toys", "next")
    wait_until(lambda: rig.lost(gone, kept) == {"gone"}, PATIENCE_S, "one is lost")
    assert rig.settled([gone, kept]) == [False, True]
    (claim,) = claim_all(1, rig.store, rig.worker)
    assert (claim.task_id, claim.crashes) == ("next", 0)


def test_other_tasks_are_claimed_while_a_run_is_not_delivered_again(
    rig: Rig, rabbit_url: str
) -> None:
    """Regression: they waited, and would have been lost with it."""
    (gone,) = rig.run("toys", "gone")
    with rig.away():
        delete_queues(rabbit_url, QUEUES[0])
        rig.offer("others", "other")
    with suppress(Unreachable):  # It does not know yet that it is connected again.
        rig.store.heartbeat(rig.worker)
    (other,) = claim_all(1, rig.store, rig.worker)
    assert rig.settled([gone]) == [False]
    assert rig.lost(other) == set()
    assert rig.settled([other]) == [True]


def test_a_run_is_kept_behind_many_more_urgent_tasks(rig: Rig) -> None:
    """Regression: they filled the prefetch."""
    runs = rig.run("toys", "run")
    urgent = [f"urgent-{number}" for number in range(60)]
    with rig.away():
        rig.offer("toys", *urgent, priority=-1)
    assert rig.settled(runs) == [True]
    for task_id in urgent:
        (claim,) = claim_all(1, rig.store, rig.worker)
        assert (claim.task_id, claim.crashes) == (task_id, 0)
        assert rig.settled([claim]) == [True]
    assert claim_up_to(1, rig.store, rig.worker) == []


def test_runs_that_have_ended_keep_no_other_run_away(
    rig: Rig, rabbitmq_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: they filled the prefetch, and were not settled before all were delivered."""
    monkeypatch.setattr(served_agent, "BRIEF_S", LONG_S)  # Also on a machine that is busy.
    monkeypatch.setattr(served_agent, "DEEP_S", 0.0)
    rabbitmq_disk.set()
    for number in range(BRIEF_RUNS):
        assert rig.settled(rig.run("toys", f"brief-{number}")) == [True]
    rabbitmq_disk.clear()
    claims: list[Claim] = []
    rig.offer("toys", *(f"t{number}" for number in range(AHEAD)))
    for _ in range(AHEAD):
        claims += claim_all(1, rig.store, rig.worker)
        assert rig.store.settle_meanwhile(good(claims[-1:]), None) is not None
    with rig.away():
        rabbitmq_disk.set()
    assert rig.lost(*claims) == set()
    assert rig.settled(claims) == [True] * AHEAD


def test_a_run_is_kept_of_an_agent_that_was_paused_meanwhile(rig: Rig) -> None:
    """Regression: nothing was consumed from its queue."""
    runs = rig.run("toys", "run")
    rig.offer("toys", "next")
    with rig.away():
        rig.offer("toys", "urgent", priority=-1)
        rig.beside.pause(queues=["toys"], paused=True)
    assert rig.settled(runs) == [True]
    assert claim_up_to(1, rig.store, rig.worker) == []
    rig.beside.pause(queues=["toys"], paused=False)
    for task_id in ("urgent", "next"):
        (claim,) = claim_all(1, rig.store, rig.worker)
        assert (claim.task_id, claim.crashes) == (task_id, 0)
        assert rig.settled([claim]) == [True]


def test_a_run_is_kept_of_an_agent_in_a_cooldown(rig: Rig) -> None:
    """Regression: nothing was consumed from its queue."""
    runs, (other,) = rig.run("toys", "run"), rig.run("others", "other")
    rig.offer("toys", "next")
    cooldown = Settlement(other, "cooldown", delay_s=LONG_S, cooldown_queues=("toys",))
    assert rig.store.settle([cooldown]) == [True]
    with rig.away():
        rig.offer("toys", "urgent", priority=-1)
    assert rig.settled(runs) == [True]
    assert claim_up_to(1, rig.store, rig.worker) == []


def test_a_run_is_kept_of_a_worker_that_is_drained(rig: Rig) -> None:
    """Regression: it served no agent after that."""
    runs = rig.run("toys", "run")
    rig.beside.drain([rig.worker.name])
    wait_until(lambda: rig.store.is_draining(rig.worker), PATIENCE_S, "it is drained")
    with rig.away():
        rig.offer("toys", "next")
        rig.offer("toys", "urgent", priority=-1)
    assert rig.settled(runs) == [True]
    assert claim_up_to(1, rig.store, rig.worker) == []
    other = replace(rig.worker, name="other")
    rig.beside.join(other)
    assert [claim.task_id for claim in claim_all(1, rig.beside, other)] == ["urgent"]


def test_runs_are_kept_of_agents_that_others_are_to_serve(rig: Rig, rabbit_url: str) -> None:
    """Regression: they went to these at once, as if the worker had not served them."""
    runs = [*rig.run("toys", "a"), *rig.run("others", "b")]
    rig.beside.join(replace(rig.worker, name="small", slots=1))
    members = _worker(rig.beside, "small")._membership  # noqa: SLF001 - no public name shows it
    wait_until(lambda: len(members.members) == 1, PATIENCE_S, "it knows the worker")
    with closing(opened(rabbit_url)) as store:
        with rig.away():
            wait_until(lambda: members.awake == [], PATIENCE_S, "it notices the loss")
            new = replace(rig.worker, name="new")
            store.join(new)
        assert rig.settled(runs) == [True, True]
        wait_until(lambda: len(_served(store, "new")) == 1, PATIENCE_S, "one agent goes there")
        assert len(_served(rig.store, "w")) == 1


def _worker(store: RabbitStore, name: str) -> RabbitWorker:
    return store._workers[name]  # noqa: SLF001 - no public name shows it


def _served(store: RabbitStore, name: str) -> frozenset[str]:
    return frozenset(_worker(store, name)._deliveries.agents)  # noqa: SLF001 - no public name shows them at once


def test_a_run_is_kept_over_several_connections_that_end_at_once(rig: Rig) -> None:
    runs = [*rig.run("toys", "a"), *rig.run("others", "b")]
    for _ in range(4):
        with rig.away():
            pass
        with suppress(Unreachable):  # Connects, and may be cut off while it resumes.
            rig.store.heartbeat(rig.worker)
    assert rig.settled(runs) == [True, True]


def test_a_run_is_kept_of_an_agent_that_has_left_its_collection(rig: Rig) -> None:
    runs = rig.run("toys", "run")
    with rig.away():
        rig.beside.declare([Queue("newer", "group", 100, 1, 3)])
        rig.offer("newer", "any")
    assert rig.settled(runs) == [True]


def test_a_run_is_kept_while_the_server_believes_in_the_last_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: 5 s after it was connected again it was lost."""
    runs = rig.run("toys", "run")
    with rig.half_away():
        with suppress(Unreachable):
            rig.store.heartbeat(rig.worker)
        with monkeypatch.context() as patch:
            patch.setattr(awaited_runs, "REUNION_S", 0.0)
            rounds = Rounds(_worker(rig.store, "w"))
            wait_until(lambda: rounds.number > 2, PATIENCE_S, "it has looked for its agents")
            assert rig.lost(*runs) == set()
    assert rig.settled(runs) == [True]


def test_others_learn_at_once_that_a_worker_awaits_nothing_of_an_agent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: for up to ten seconds they left the agent to it, which did not serve it."""
    monkeypatch.setattr(worker_module, "HELLO_EVERY_S", LONG_S)
    rig.run("toys", "run")
    with rig.half_away():
        with suppress(Unreachable):
            rig.store.heartbeat(rig.worker)
        rig.beside.join(replace(rig.worker, name="other"))
        members = _worker(rig.beside, "other")._membership.members  # noqa: SLF001 - no public name shows it
        wait_until(
            lambda: "w" in members and members["w"].owned == {"toys"}, PATIENCE_S, "it waits"
        )
        deliveries = _worker(rig.store, "w")._deliveries  # noqa: SLF001 - as above
        rig.store._link.soon(lambda: deliveries.lose(deliveries.awaited.all))  # noqa: SLF001 - on its own thread
        wait_until(lambda: members["w"].owned == set(), PATIENCE_S, "it says so")


def test_a_worker_that_leaves_as_it_is_connected_again_gives_its_runs_back(rig: Rig) -> None:
    """Regression: what had not been delivered again counted a crash."""
    rig.run("toys", "a")
    rig.run("others", "b")
    with rig.away():
        pass

    def has_left() -> bool:
        with suppress(Unreachable):
            return rig.store.leave(rig.worker) == 2
        return False

    wait_until(has_left, PATIENCE_S, "it leaves")
    other = replace(rig.worker, name="other")
    rig.beside.join(other)
    claims = claim_all(2, rig.beside, other)
    assert {claim.task_id: claim.crashes for claim in claims} == {"a": 0, "b": 0}


def test_what_was_not_read_when_the_connection_ended_counts_no_crash(rig: Rig) -> None:
    """Regression: the next connection took it for what a dead worker had."""
    assert rig.settled(rig.run("toys", "read")) == [True]
    assert rig.lost() == set()  # The server has answered since.
    with rig.unread():
        rig.offer("toys", "unread")
        wait_until(lambda: waiting(rig.beside) == 0, PATIENCE_S, "it is delivered")
    with suppress(Unreachable):  # It does not know yet that it is connected again.
        rig.store.heartbeat(rig.worker)
    (claim,) = claim_all(1, rig.store, rig.worker)
    assert (claim.task_id, claim.crashes) == ("unread", 0)


def waiting(store: RabbitStore) -> int:
    """The number of tasks that lie on the server."""

    async def count(services: Services) -> int:
        queues = (services.registry.sources(it) for it in services.registry.current())
        names = [source.name for sources in queues for source in sources]
        return sum((await services.queues.depths(names)).values())

    return store._run(count)  # noqa: SLF001 - no operation shows it
