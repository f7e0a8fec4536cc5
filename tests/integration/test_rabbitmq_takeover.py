"""On RabbitMQ, others soon serve the agents of a dead worker, also if one of them is frozen."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pika
import pytest
from pika.exchange_type import ExchangeType

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore, membership
from agentpipe.brokers.rabbitmq import worker as rabbit_worker
from agentpipe.brokers.rabbitmq.locks import FIRST, UnitLocks
from agentpipe.brokers.rabbitmq.rpc import Request, encode
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.core.delivered import Delivered
from agentpipe.settings import Settings
from tests.integration.proxy import Proxy
from tests.integration.rabbit_rig import until_set
from tests.integration.rounds import Rounds
from tests.stores import claim_up_to
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.rabbitmq.services import Services
    from brokers.server_rabbitmq import RabbitServer

AGENTS = frozenset(f"agent-{number}" for number in range(6))
NAMES = ("a", "b", "c")
# Longer than any test: the server ends no connection, and no worker loses its lease.
LONG_S = 600.0


def opened(rabbit_url: str, lease_s: float = LONG_S) -> RabbitStore:
    store = open_store(Settings(broker=rabbit_url, lease_s=lease_s))
    assert isinstance(store, RabbitStore)
    store.declare([Queue(name, None, 100, 3) for name in AGENTS])
    return store


def joined(store: RabbitStore, name: str, lease_s: float = LONG_S) -> Worker:
    worker = Worker(name, slots=3, queues=AGENTS, lease_s=lease_s)
    store.join(worker)
    return worker


@contextmanager
def fleet(rabbit_url: str) -> Iterator[dict[str, RabbitStore]]:
    """Three workers that serve a third of the agents each."""
    with ExitStack() as stack:
        stores = {name: stack.enter_context(closing(opened(rabbit_url))) for name in NAMES}
        for name, store in stores.items():
            joined(store, name)
        share = len(AGENTS) // len(NAMES)
        wait_until(
            lambda: all(len(served(stores[name], name)) == share for name in NAMES), 30, "shares"
        )
        yield stores


def served(store: RabbitStore, name: str) -> frozenset[str]:
    deliveries = store._workers[name]._deliveries  # noqa: SLF001 - no public name shows them at once
    return frozenset(deliveries.agents)


def is_gone(store: RabbitStore, address: str) -> bool:
    """Whether the server has deleted the queue of a worker with its connection."""

    async def publish(services: Services) -> bool:
        probe = encode(Request("probe"), key=address)
        return await services.connection.publisher.publish([probe]) == ["unroutable"]

    return store._run(publish)  # noqa: SLF001 - no operation shows it


@contextmanager
def frozen(store: RabbitStore) -> Iterator[None]:
    """The worker does nothing, but keeps its connection, as if its interpreter was held."""
    held, thaw = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        thaw.wait()

    store._link.soon(hold)  # noqa: SLF001 - on its own thread
    held.wait()
    try:
        yield
    finally:
        thaw.set()


def test_agents_of_a_dead_worker_do_not_wait_for_a_frozen_one(rabbit_url: str) -> None:
    """Regression: a part was the frozen worker's share, and waited until that was ended."""
    with fleet(rabbit_url) as stores:
        expected = served(stores["a"], "a") | served(stores["c"], "c")
        with frozen(stores["b"]):
            stores["c"].close()
            wait_until(lambda: served(stores["a"], "a") == expected, 30, "the others' agents")


def test_a_frozen_worker_that_continues_takes_its_share_again(rabbit_url: str) -> None:
    with fleet(rabbit_url) as stores:
        expected = served(stores["a"], "a") | served(stores["c"], "c")
        with frozen(stores["b"]):
            stores["c"].close()
            wait_until(lambda: served(stores["a"], "a") == expected, 30, "the others' agents")
        wait_until(lambda: len(served(stores["b"], "b")) == len(AGENTS) // 2, 30, "its half")
        assert len(served(stores["a"], "a")) == len(AGENTS) // 2


def test_workers_learn_at_once_from_a_watcher_that_one_has_ended(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: they noticed it when they probed it next, after seconds if views differed."""
    monkeypatch.setattr(rabbit_worker, "TICK_S", LONG_S)
    with fleet(rabbit_url) as stores, closing(opened(rabbit_url)) as watcher:
        stores["c"].close()
        assert watcher.leave(Worker("c")) == 0
        wait_until(
            lambda: served(stores["a"], "a") | served(stores["b"], "b") == AGENTS, 30, "all agents"
        )


@contextmanager
def cut_off(server: RabbitServer, rabbit_url: str, lease_s: float) -> Iterator[RabbitStore]:
    """A worker ``a``; beside it, ``b`` serves the other half and loses its connection for good."""
    with Proxy(server.port, odds=0.0) as proxy, closing(opened(rabbit_url, lease_s)) as store:
        through = rabbit_url.replace(f":{server.port}/", f":{proxy.port}/")
        with closing(opened(through, lease_s)) as other:
            joined(store, "a", lease_s)
            joined(other, "b", lease_s)
            half = len(AGENTS) // 2
            members = store._workers["a"]._membership.members  # noqa: SLF001 - no public name shows it
            wait_until(lambda: "b" in members and len(members["b"].owned) == half, 30, "shares")
            proxy.refuse()
            yield store


def test_agents_of_a_worker_that_is_cut_off_stay_until_a_watcher_says_that_it_has_ended(
    rabbit_url: str, rabbitmq_server: RabbitServer
) -> None:
    """Regression: others took them at once, and its runs continued beside theirs."""
    with (
        cut_off(rabbitmq_server, rabbit_url, LONG_S) as store,
        closing(opened(rabbit_url)) as watcher,
    ):
        worker = store._workers["a"]  # noqa: SLF001 - no public name shows what it knows
        wait_until(lambda: worker._membership.awake == [], 30, "the loss is noticed")  # noqa: SLF001
        rounds = Rounds(worker)
        wait_until(lambda: rounds.number > 2, 30, "it has looked for agents since")
        assert len(served(store, "a")) == len(AGENTS) // 2
        watcher.leave(Worker("b"))
        wait_until(lambda: served(store, "a") == AGENTS, 30, "all agents")


def test_agents_of_a_worker_that_is_cut_off_are_free_when_its_lease_is_over(
    rabbit_url: str, rabbitmq_server: RabbitServer
) -> None:
    lease_s = 3.0 * slowness()  # Nobody extends it while both take their shares.
    with cut_off(rabbitmq_server, rabbit_url, lease_s) as store:
        cut_at = time.monotonic()
        beat = Worker("a", slots=3, queues=AGENTS, lease_s=lease_s)
        wait_until(lambda: store.heartbeat(beat) and served(store, "a") == AGENTS, 30, "all agents")
        assert time.monotonic() >= cut_at + lease_s


@pytest.mark.parametrize("is_known", [True, False])
def test_a_worker_that_joins_leaves_agents_of_one_that_is_cut_off_alone(
    rabbit_url: str,
    rabbitmq_server: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_known: bool,
) -> None:
    """Regression: it did not know of it, and ran its tasks beside it."""
    monkeypatch.setattr(membership, "MEET_S", LONG_S)  # However busy the machine is.
    if not is_known:  # The other worker has not looked since, and does so as this one joins.
        monkeypatch.setattr(rabbit_worker, "TICK_S", LONG_S)
    with (
        cut_off(rabbitmq_server, rabbit_url, LONG_S) as store,
        closing(opened(rabbit_url)) as joining,
        closing(opened(rabbit_url)) as watcher,
    ):
        first = store._workers["a"]._membership  # noqa: SLF001 - no public name shows what it knows
        theirs = first.members["b"].owned
        gone = partial(is_gone, store, first.members["b"].address)
        wait_until(gone, 30, "the server has noticed the end of the connection")
        if is_known:
            wait_until(lambda: first.awake == [], 30, "the loss is noticed")
        joined(joining, "c")
        rounds = Rounds(joining._workers["c"])  # noqa: SLF001 - as above
        wait_until(lambda: rounds.number > 2, 30, "it has looked for agents")
        assert not served(joining, "c") & theirs
        watcher.leave(Worker("b"))
        wait_until(lambda: served(store, "a") | served(joining, "c") == AGENTS, 30, "all agents")


@pytest.mark.parametrize("counts", [True, False])
def test_what_a_dead_worker_ran_comes_before_first_offers_of_other_agents(
    rabbit_url: str, *, counts: bool
) -> None:
    """Regression: its agent had the last turn in its new worker."""
    begun, new = "agent-0", sorted(AGENTS)[1:]
    with closing(opened(rabbit_url)) as dying:
        worker = joined(dying, "dying")
        dying.offer(begun, [Offer("begun", b"{}")], round_robin=False)
        wait_until(lambda: claim_up_to(1, dying, worker), 30, "its run")
    with closing(opened(rabbit_url)) as store:
        for agent in new:
            store.offer(agent, [Offer(f"new of {agent}", b"{}")], round_robin=False)
        known = [Delivered("begun", 0, begun=True)]
        store.spare(*([], known) if counts else (known, []))
        worker = joined(store, "new")
        deliveries = store._workers["new"]._deliveries  # noqa: SLF001 - no public name shows them
        wait_until(lambda: len(deliveries.ready()) == len(AGENTS), 30, "all lie there")
        assert [claim.task_id for claim in claim_up_to(1, store, worker)] == ["begun"]


def test_tasks_start_before_a_worker_has_taken_over_a_thousand_agents(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: none did until all were locked and consumed."""
    take, asked, may_go_on = UnitLocks.take, list[int](), threading.Event()

    async def slowly(locks: UnitLocks, units: Sequence[str], owner: object) -> set[str]:
        asked.append(len(units))
        if len(asked) > 1:
            await until_set(may_go_on)
        return await take(locks, units, owner)

    monkeypatch.setattr(UnitLocks, "take", slowly)
    many = [f"agent-{number}" for number in range(FIRST + 20)]
    with closing(opened(rabbit_url)) as store:
        store.declare([Queue(name, None, 100, 1) for name in many])
        for name in many:
            store.offer(name, [Offer(f"of-{name}", b"{}")], round_robin=False)
        worker = Worker("a", slots=len(many), queues=frozenset(many), lease_s=LONG_S)
        store.join(worker)
        started: list[str] = []

        def starts(number: int) -> bool:
            started.extend(it.queue for it in claim_up_to(len(many), store, worker))
            return len(started) == number

        wait_until(lambda: starts(FIRST), 30, "the first ones")
        may_go_on.set()
        wait_until(lambda: starts(len(many)), 30, "all")
    assert asked[:2] == [FIRST, 20]


def test_all_workers_hear_each_other_again_after_their_exchange_was_deleted(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: one worker made it again, and the others heard nothing for ever."""
    monkeypatch.setattr(rabbit_worker, "HELLO_EVERY_S", 0.2)
    with fleet(rabbit_url):
        make_again(rabbit_url)
        with closing(opened(rabbit_url)) as watcher:
            wait_until(lambda: len(watcher.stats().workers) == len(NAMES), 30, "all answer")


def make_again(rabbit_url: str) -> None:
    """Delete the fleet's exchange, and make it again before any worker misses it."""
    url, _, prefix = rabbit_url.partition("?prefix=")
    exchange = Topology(prefix).fleet
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.exchange_delete(exchange)
        channel.exchange_declare(exchange, ExchangeType("fanout"), durable=True)
