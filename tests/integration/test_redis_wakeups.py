"""Which workers Redis wakes when tasks become claimable: as many idle ones as can claim."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.settings import OutboxLimits, Settings
from brokers.server_redis import RedisServer
from tests.stores import claim_up_to, open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import OwnServer
    from tests.stores import AnyStore

QUEUE, OTHER = "crew_0", "other_0"
PATIENCE_S = 30.0
pytestmark = pytest.mark.server


class Fleet:
    """Workers of one store, each with its own listening connection."""

    def __init__(self, url: str, raw: redis.Redis, stack: ExitStack) -> None:
        self.url, self.raw, self._stack = url, raw, stack
        self.keys = "{" + url.rpartition("=")[2] + "}"
        self.sender = self.opened()
        queues = [Queue(name, "crew", 10**6, concurrency=100) for name in (QUEUE, OTHER)]
        self.sender.declare(queues)
        self.stores: dict[str, AnyStore] = {}
        self.workers: dict[str, Worker] = {}
        self._messages = raw.pubsub()  # type: ignore[no-untyped-call]  # untyped in redis-py
        stack.callback(self._messages.close)
        self._messages.psubscribe(f"{self.keys}:wake*")
        self._messages.get_message(timeout=PATIENCE_S)

    def opened(self) -> AnyStore:
        store = open_any(Settings(broker=self.url))
        self._stack.callback(store.close)
        return store

    def join(self, *names: str, queue: str = QUEUE) -> None:
        """Add workers that have looked for tasks, and listen."""
        for name in names:
            self.stores[name] = self.opened()
            self.workers[name] = Worker(name, lease_s=600, queues=frozenset([queue]))
            self.stores[name].join(self.workers[name])
            self.stores[name].wait(0)
            self.look(name)

    def look(self, name: str, limit: int = 8) -> list[Any]:
        return claim_up_to(limit, self.stores[name], self.workers[name])

    def put(self, *ids: str, queue: str = QUEUE) -> None:
        self.sender.offer(queue, [Offer(each, b"{}") for each in ids], round_robin=False)

    def woken(self) -> list[str]:
        """The workers woken since the last call; '' stands for all."""
        self.raw.publish(f"{self.keys}:wake:the end", "")
        found: list[str] = []
        while True:
            message = self._messages.get_message(timeout=PATIENCE_S)
            name = message["channel"].decode().removeprefix(f"{self.keys}:wake").removeprefix(":")
            if name == "the end":
                return sorted(found)
            found.append(name)


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    url = f"{redis_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        raw = stack.enter_context(redis.Redis.from_url(redis_server.url))
        yield Fleet(url, raw, stack)


def test_each_task_wakes_one_of_those_that_are_idle(fleet: Fleet) -> None:
    fleet.join("a", "b", "c", "d")
    fleet.woken()
    fleet.put("1")
    assert fleet.woken() == ["a"]
    fleet.put("2", "3")
    assert fleet.woken() == ["b", "c"]
    fleet.put("4", "5", "6")
    assert fleet.woken() == ["d"]


def test_a_worker_that_has_looked_is_woken_again(fleet: Fleet) -> None:
    fleet.join("a", "b")
    fleet.put("1")
    assert fleet.woken() == ["a"]
    assert len(fleet.look("a")) == 1
    fleet.put("2", "3")
    assert fleet.woken() == ["a", "b"]


def test_who_holds_least_is_woken_first(fleet: Fleet) -> None:
    fleet.join("a", "b", "c")
    fleet.put("1", "2", "3")
    assert len(fleet.look("a", limit=8)) == 3
    fleet.look("b"), fleet.look("c")
    fleet.woken()
    fleet.put("4")
    assert fleet.woken() == ["b"]


def test_a_worker_without_a_free_slot_is_not_woken(fleet: Fleet) -> None:
    fleet.join("a")
    fleet.put("1")
    assert fleet.woken() == ["a"]
    (claim,) = fleet.look("a", limit=1)
    fleet.put("2")
    assert fleet.woken() == []
    done = Settlement(claim, "complete", b"result", "ok")
    fleet.stores["a"].settle([done])
    assert fleet.woken() == []  # It has a free slot, so it claims again anyway.
    assert [each.task_id for each in fleet.look("a")] == ["2"]


def test_one_that_does_not_react_costs_one_task_its_wake_up(fleet: Fleet) -> None:
    fleet.join("a", "b")
    fleet.put("1")
    assert fleet.woken() == ["a"]  # "a" does not react.
    for task in ("2", "3"):
        fleet.put(task)
        assert fleet.woken() == ["b"]
        assert fleet.look("b")  # First also finds the task that "a" missed.


def test_one_whose_connection_is_gone_is_passed_over(redis_server: RedisServer) -> None:
    """Checked with a single channel: a pattern subscription would receive every message."""
    url = f"{redis_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        raw = stack.enter_context(redis.Redis.from_url(redis_server.url))
        fleet = Fleet(url, raw, stack)
        fleet.join("a", "b")
        fleet._messages.punsubscribe()  # noqa: SLF001 - for the reason in the docstring
        fleet.stores["a"].close()  # As the kernel does after a kill.
        listening: Any = partial(raw.pubsub_numsub, f"{fleet.keys}:wake:a")
        wait_until(lambda: listening()[0][1] == 0, PATIENCE_S, "the server has noticed")
        heard = raw.pubsub()
        stack.callback(heard.close)
        heard.subscribe(f"{fleet.keys}:wake:b")
        heard.get_message(timeout=PATIENCE_S)
        fleet.put("1")
        assert heard.get_message(timeout=PATIENCE_S)


def test_who_serves_other_queues_is_not_woken(fleet: Fleet) -> None:
    fleet.join("a", queue=OTHER)
    fleet.join("b")
    fleet.put("1")
    assert fleet.woken() == ["b"]
    fleet.put("2", queue=OTHER)
    assert fleet.woken() == ["a"]


def test_what_a_worker_leaves_wakes_as_many_as_it_held(fleet: Fleet) -> None:
    fleet.join("a")
    fleet.put("1", "2")
    assert len(fleet.look("a")) == 2
    fleet.join("b", "c", "d")
    fleet.woken()
    fleet.stores["a"].leave(fleet.workers["a"])
    assert fleet.woken() == ["b", "c"]


def test_a_settlement_without_a_claim_wakes_who_may_run_next(fleet: Fleet) -> None:
    gated = [Queue(f"gated_{n}", "gated", 10, 1, concurrency_group="g") for n in range(2)]
    fleet.sender.declare(gated)
    for name in "ab":
        fleet.stores[name] = fleet.opened()
        queues = frozenset(queue.name for queue in gated)
        fleet.workers[name] = Worker(name, lease_s=600, queues=queues)
        fleet.stores[name].join(fleet.workers[name])
        fleet.stores[name].wait(0)
    fleet.put("1", queue="gated_0")
    fleet.put("2", queue="gated_1")
    (claim,) = fleet.look("a")
    assert fleet.look("b") == []
    fleet.woken()
    fleet.put("3", queue="gated_1")
    assert fleet.woken() == []  # The concurrency limit is reached.
    fleet.stores["a"].settle([Settlement(claim, "complete", b"result", "ok")])
    assert len(fleet.woken()) == 1


def test_a_worker_that_drains_is_not_woken(fleet: Fleet) -> None:
    fleet.join("a", "b")
    fleet.sender.drain(["a"])
    fleet.put("1")
    assert fleet.woken() == ["b"]


def test_what_leaves_the_outbox_wakes_only_where_that_was_full(fleet: Fleet) -> None:
    fleet.join("a")
    fleet.put("1", "2", "3")
    store, worker = fleet.stores["a"], fleet.workers["a"]
    (claim,) = fleet.look("a", limit=1)
    store.settle([Settlement(claim, "complete", b"result", "ok")])
    (claim,) = fleet.look("a", limit=1)
    fleet.woken()
    store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 10, 10**6)])
    assert fleet.woken() == []
    store.settle([Settlement(claim, "complete", b"result", "ok")])
    assert store.claim(ClaimRequest(worker, 8, OutboxLimits(1, 10**9))) == []
    store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 10, 10**6)])
    assert fleet.woken() == [""]


def test_workers_of_an_earlier_version_are_woken_with_all_others(fleet: Fleet) -> None:
    fleet.join("a", "b")
    old = fleet.raw.pubsub()  # type: ignore[no-untyped-call]  # untyped in redis-py
    old.subscribe(f"{fleet.keys}:wake")
    old.get_message(timeout=PATIENCE_S)
    fleet.put("1")
    assert fleet.woken() == [""]
    assert fleet.look("a")
    fleet.put("2")
    assert fleet.woken() == [""]
    old.close()
    fleet.look("b")
    fleet.put("3")
    assert fleet.woken() != [""]


def test_a_claim_reads_no_more_peers_than_a_few(own_server: OwnServer) -> None:
    server = own_server(RedisServer)
    with ExitStack() as stack:
        raw = stack.enter_context(redis.Redis.from_url(server.url))
        fleet = Fleet(f"{server.url}?prefix=test", raw, stack)

        def cost() -> int:
            fleet.put(uuid.uuid4().hex)
            before = _calls(raw)
            request = ClaimRequest(Worker("w0"), 1, OutboxLimits(10**9, 10**9), held=0)
            fleet.sender.claim(request)
            return _calls(raw) - before

        def joined(first: int, last: int) -> None:
            for number in range(first, last):
                fleet.sender.join(Worker(f"w{number}", lease_s=600, queues=frozenset([QUEUE])))

        joined(0, 20)
        cost()
        of_few = cost()
        joined(20, 100)
        assert cost() == of_few


def _calls(raw: redis.Redis) -> int:
    stats: Any = raw.info("commandstats")
    return int(stats.get("cmdstat_hlen", {"calls": 0})["calls"])
