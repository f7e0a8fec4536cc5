"""On RabbitMQ, what ran on a worker that died comes before tasks that never began."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore, verdicts
from agentpipe.brokers.rabbitmq.ahead import unread
from agentpipe.brokers.rabbitmq.rpc import Request
from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.core.delivered import Delivered
from agentpipe.settings import Settings
from tests.integration.rabbit_delays import skipped_delays
from tests.integration.rabbit_worker import Working, worker_of
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.services import Services

# Longer than any test: a task without a verdict would count a crash only after it.
LONG_S = 600.0
ONE = frozenset({"one"})


def working(rabbit_url: str, bound: int = 100) -> Working:
    """Its agent runs one task at a time."""
    return worker_of(rabbit_url, Queue("one", None, bound, 1, max_crashes=9))


def deliveries(store: RabbitStore, worker: Worker) -> Deliveries:
    return store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows them


def offer(store: RabbitStore, *task_ids: str) -> None:
    store.offer("one", [Offer(task_id, b"{}") for task_id in task_ids], round_robin=False)


def claimed(store: RabbitStore, worker: Worker, *, settles: bool = False) -> str:
    """The next task that the worker claims."""
    found: list[str] = []

    def one() -> bool:
        claims = claim_up_to(1, store, worker)
        found.extend(claim.task_id for claim in claims)
        if settles:
            store.settle([Settlement(claim, "complete", b"{}", "ok") for claim in claims])
        return bool(found)

    wait_until(one, 30, "a claim")
    return found[0]


def order(rabbit_url: str, number: int, bound: int = 100) -> list[str]:
    """The tasks in the order in which a new worker claims them."""
    with working(rabbit_url, bound) as (store, worker):
        return [claimed(store, worker, settles=True) for _ in range(number)]


def has_ready(store: RabbitStore, worker: Worker, number: int) -> bool:
    agents = list(deliveries(store, worker).agents.values())  # Another thread changes them.
    return sum(len(agent.ready) for agent in agents) == number


def is_ready(agent: ServedAgent, task_id: str) -> bool:
    return any(each.message.task_id == task_id for each in list(agent.ready))


def begun(*task_ids: str) -> list[Delivered]:
    return [Delivered(task_id, 0, begun=True) for task_id in task_ids]


@pytest.mark.parametrize("counts", [True, False])
def test_what_returns_while_its_agent_is_handed_over_is_not_behind_first_offers(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch, *, counts: bool
) -> None:
    """Regression: the same handover put first offers among the returned tasks, before it."""
    monkeypatch.setattr(verdicts, "PATIENCE_S", LONG_S)
    with working(rabbit_url) as (store, worker):
        offer(store, "begun")
        assert claimed(store, worker) == "begun"
    with working(rabbit_url) as (store, worker):
        wait_until(lambda: "one" in deliveries(store, worker).agents, 30, "it serves the agent")
        agent = deliveries(store, worker).agents["one"]
        wait_until(lambda: agent.judging, 30, "it was delivered again")
        offer(store, "new")
        wait_until(lambda: agent.ready, 30, "the new one is delivered")

        async def hand_over(services: Services) -> None:
            await services.ask(Request("put_back", queues=ONE))

        store._run(hand_over)  # noqa: SLF001 - as an operator's command does
        store.spare(*([], begun("begun")) if counts else (begun("begun"), []))
        back = partial(is_ready, agent, "begun")
        wait_until(back, 30, "it is delivered, and no first offer before it")
        assert claimed(store, worker) == "begun"


def test_a_run_that_was_ended_comes_before_what_only_waited_with_it(rabbit_url: str) -> None:
    """Regression: what was delivered ahead came first, as if it had run."""
    with working(rabbit_url) as (store, worker):
        offer(store, "begun", "ahead")
        assert claimed(store, worker) == "begun"
        wait_until(lambda: deliveries(store, worker).ready(), 30, "the other was delivered")
        store.spare([Delivered("ahead", 0)], begun("begun"))  # As the worker's supervisor does.
    with working(rabbit_url) as (store, worker):
        agents = deliveries(store, worker).agents
        wait_until(
            lambda: "one" in agents and len(agents["one"].ready) == 2, 30, "both lie there again"
        )
        assert claimed(store, worker) == "begun"


def test_a_known_culprit_comes_back_later_at_its_first_crash(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it could end the same neighbours once more."""
    delays = skipped_delays(monkeypatch)
    with working(rabbit_url) as (store, worker):
        offer(store, "culprit")
        assert claimed(store, worker) == "culprit"
        store.spare([], [Delivered("culprit", 0, begun=True, culprit=True)])
    assert order(rabbit_url, 1) == ["culprit"]
    assert delays == [2.0]


def test_a_run_that_had_ended_unsettled_comes_before_what_never_began(rabbit_url: str) -> None:
    """Regression: it came last, as if it had only been delivered to the frozen worker."""
    with working(rabbit_url) as (store, worker):
        offer(store, "ended")
        assert claimed(store, worker) == "ended"
        store.spare([Delivered("ended", 0, ended=True)], [])  # As the worker's supervisor does.
    with working(rabbit_url) as (store, worker):
        store.offer("one", [Offer("new", b"{}", priority=1)], round_robin=False)
        wait_until(partial(has_ready, store, worker, 2), 30, "both lie there")
        assert claimed(store, worker) == "ended"


def test_what_ran_on_a_worker_that_was_killed_comes_back_at_once(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not have ended the worker, even if it was the only one to be blamed."""
    delays = skipped_delays(monkeypatch)
    with working(rabbit_url) as (store, worker):
        offer(store, "killed")
        assert claimed(store, worker) == "killed"
        store.spare(begun("of another agent"), begun("killed"))
    assert order(rabbit_url, 1) == ["killed"]
    assert delays == []


def test_a_spared_run_comes_before_the_culprit_at_each_worker(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a culprit came first wherever it had been returned before, again and again."""
    skipped_delays(monkeypatch)
    with working(rabbit_url) as (store, worker):
        offer(store, "culprit", "spared")
        assert claimed(store, worker) == "culprit"
        wait_until(partial(has_ready, store, worker, 1), 30, "the other was delivered")
        known = Delivered("culprit", 0, begun=True, culprit=True)
        store.spare(begun("spared"), [known])  # As the worker's supervisor does.
    with working(rabbit_url) as (store, worker):
        wait_until(partial(has_ready, store, worker, 2), 30, "both lie there, and none begins")
        there = [it.message.delivered for _, it in deliveries(store, worker).ready()]
    with closing(open_store(Settings(broker=rabbit_url))) as watcher:
        assert isinstance(watcher, RabbitStore)
        watcher.spare([*there, unread("one")], [])
    assert order(rabbit_url, 1) == ["spared"]


@pytest.mark.parametrize("bound", [100, 1])
def test_first_offers_keep_their_places_when_a_worker_leaves(rabbit_url: str, bound: int) -> None:
    """Beyond the bound there is no room for them; they go before the others all the same."""
    with working(rabbit_url, bound) as (store, worker):
        for number, task_id in enumerate(("a", "b"), 1):
            offer(store, task_id)
            all_there = partial(has_ready, store, worker, number)
            wait_until(all_there, 30, "it is delivered")
        offer(store, "c")
        store.leave(worker)
    assert order(rabbit_url, 3, bound) == ["a", "b", "c"]
