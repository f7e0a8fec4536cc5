"""Settling and claiming in one call on Redis: lost replies lose no task and run none twice."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest
import redis

from agentpipe.brokers.capabilities import SettlesAndClaims
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.errors import StoreError, Unreachable
from agentpipe.settings import Settings
from brokers.ports import HOST
from brokers.server_redis import RedisServer
from tests.integration.proxy import Proxy
from tests.stores import ROOMY, AnyStore, claim_up_to, open_any
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.records import Claim
    from tests.servers import OwnServer

QUEUES = [f"crew_{number}" for number in range(4)]
PATIENCE_S = 60.0
PROCESSES, TASKS, CONCURRENCY = 8, 400, 2


class BothStore(AnyStore, SettlesAndClaims, Protocol):
    """A store that can settle and claim in one call."""


@contextmanager
def opened(url: str) -> Iterator[BothStore]:
    with closing(cast("BothStore", open_any(Settings(broker=url)))) as store:
        yield store


@pytest.fixture
def store(redis_server: RedisServer, prefix: str) -> Iterator[BothStore]:
    with opened(f"{redis_server.url}?prefix={prefix}") as store:
        declare(store)
        yield store


def declare(store: BothStore, tasks: Sequence[str] = ()) -> None:
    store.declare([Queue(name, "crew", 10**6, CONCURRENCY) for name in QUEUES])
    store.offer("crew", [Offer(each, b"payload") for each in tasks], round_robin=True)


def worker_of(store: BothStore, name: str = "w", lease_s: float = 60.0) -> Worker:
    worker = Worker(name, queues=frozenset(QUEUES), lease_s=lease_s)
    store.join(worker)
    return worker


def answers(claims: Sequence[Claim]) -> list[Settlement]:
    return [Settlement(claim, "complete", b"result", "ok") for claim in claims]


def both(
    store: BothStore, worker: Worker, claims: Sequence[Claim], limit: int = 1
) -> tuple[list[bool], list[Claim] | None]:
    return store.settle_and_claim(answers(claims), ClaimRequest(worker, limit, ROOMY))


def ids(claims: Sequence[Claim] | None) -> list[str]:
    return [claim.task_id for claim in claims or ()]


def running(store: BothStore) -> int:
    return sum(depth.running or 0 for depth in store.stats().queues)


def test_a_worker_without_a_lease_settles_and_claims_nothing(store: BothStore) -> None:
    declare(store, "ab")
    worker = worker_of(store)
    claims = claim_up_to(1, store, worker)
    store.leave(worker)
    assert both(store, worker, claims) == ([False], [])
    assert (running(store), store.stats().waiting) == (0, 2)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("again", ["apart", "joint"])
def test_a_lost_reply_costs_neither_the_settlement_nor_the_claim(
    redis_server: RedisServer, store: BothStore, prefix: str, *, lost: int, again: str
) -> None:
    declare(store, "abcd")
    with (
        Proxy(redis_server.port, odds=1.0) as proxy,
        opened(f"redis://{HOST}:{proxy.port}/0?prefix={prefix}") as cut_off,
    ):
        worker = worker_of(cut_off)
        claims = claim_up_to(1, cut_off, worker)
        proxy.may_lose = lost  # A call that loses one reply retries by itself.
        if lost == 1:
            done, claimed = both(cut_off, worker, claims)
        else:
            with pytest.raises(Unreachable):
                both(cut_off, worker, claims)
            assert (running(store), store.stats().outcomes) == (1, {"ok": 1})
            if again == "joint":
                done, claimed = both(cut_off, worker, claims)
            else:
                done, claimed = cut_off.settle(answers(claims)), None
            assert claimed is None  # The worker must ask for it.
            claimed = claim_up_to(1, cut_off, worker)
        assert (done, ids(claimed)) == ([True], ["b"])
        assert (running(store), store.stats().outcomes) == (1, {"ok": 1})
        assert cut_off.settle(answers(claims)) == [False]
        assert cut_off.settle(answers(claimed or ())) == [True]
    assert (running(store), store.stats().outcomes, store.stats().waiting) == (0, {"ok": 2}, 2)


def test_a_call_that_never_arrived_is_carried_out_later(own_server: OwnServer) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store:
        declare(store, "abc")
        worker = worker_of(store)
        claims = claim_up_to(1, store, worker)
        server.kill()
        with pytest.raises(Unreachable):
            both(store, worker, claims)
        server.start()
        done, claimed = both(store, worker, claims)
        assert (done, claimed) == ([True], None)
        assert ids(claim_up_to(1, store, worker)) == ["b"]
        assert (running(store), store.stats().outcomes) == (1, {"ok": 1})
        assert store.heartbeat(worker)


def test_a_server_that_restarts_or_forgets_the_script_is_told_it_again(
    own_server: OwnServer,
) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store, closing(redis.Redis.from_url(server.url)) as raw:
        declare(store, "abcd")
        worker = worker_of(store)
        claims: Sequence[Claim] | None = claim_up_to(1, store, worker)
        for forget in (raw.script_flush, server.kill):
            forget()
            server.start()
            done, claims = both(store, worker, claims or ())
            assert (done, len(claims or ())) == ([True], 1)
        assert (running(store), store.stats().outcomes) == (1, {"ok": 2})


def test_a_claim_that_fails_takes_no_settlement_with_it(
    store: BothStore, redis_server: RedisServer, prefix: str
) -> None:
    store.offer(QUEUES[0], [Offer(each, b"payload") for each in "ab"], round_robin=False)
    worker = worker_of(store)
    claims = claim_up_to(1, store, worker)
    with closing(redis.Redis.from_url(redis_server.url)) as raw:
        waiting = f"{{{prefix}}}:waiting:{QUEUES[0]}"
        kept: Any = raw.zrange(waiting, 0, -1, withscores=True)
        raw.delete(waiting)
        raw.set(waiting, "what another program wrote")
        assert both(store, worker, claims) == ([True], None)
        assert (running(store), store.stats().outcomes) == (0, {"ok": 1})
        with pytest.raises(StoreError, match="WRONGTYPE"):
            claim_up_to(1, store, worker)
        raw.delete(waiting)
        raw.zadd(waiting, dict(kept))
    assert ids(claim_up_to(1, store, worker)) == ["b"]


# Processes.


class Mute(Proxy):
    """Forwards requests, but no replies once it is ``muted``."""

    muted = False

    async def _passes(self, *, reply: bool) -> bool:
        if reply and self.muted:
            await asyncio.Event().wait()
        return await super()._passes(reply=reply)


def _settle_and_wait(url: str, claimed: Any, go_on: Any) -> None:
    with opened(url) as store:
        worker = worker_of(store, "killed", lease_s=4.0)
        claims = claim_up_to(1, store, worker)
        claimed.set()
        go_on.wait(PATIENCE_S)
        both(store, worker, claims)


def test_a_worker_killed_before_its_reply_has_settled_and_its_claim_runs_elsewhere(
    redis_server: RedisServer, store: BothStore, prefix: str
) -> None:
    declare(store, "ab")
    spawn = multiprocessing.get_context("spawn")
    claimed, go_on = spawn.Event(), spawn.Event()
    with Mute(redis_server.port, odds=0.0) as proxy:
        url = f"redis://{HOST}:{proxy.port}/0?prefix={prefix}"
        child = spawn.Process(target=_settle_and_wait, args=(url, claimed, go_on), daemon=True)
        child.start()
        assert claimed.wait(PATIENCE_S)
        proxy.muted = True
        go_on.set()
        wait_until(lambda: store.stats().outcomes == {"ok": 1}, PATIENCE_S, "it has settled")
        assert child.is_alive()
        assert running(store) == 1
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(PATIENCE_S)
    rival = worker_of(store, "rival")
    (again,) = wait_until(lambda: claim_up_to(1, store, rival), PATIENCE_S, "its lease ends")
    assert (again.task_id, again.crashes) == ("b", 1)
    assert both(store, rival, [again]) == ([True], [])
    assert (running(store), store.stats().outcomes, store.stats().outbox) == (0, {"ok": 2}, 2)


def _race(url: str, name: str, group: Any, found: Any) -> None:
    """Settle and claim until all is done; report the claims, and the most running per queue."""
    with opened(url) as store:
        worker, mine, most = worker_of(store, name), list[str](), 0
        group.wait(PATIENCE_S)
        claims: Sequence[Claim] | None = claim_up_to(2, store, worker)
        while sum(store.stats().outcomes.values()) < TASKS:
            mine += ids(claims)
            most = max(most, *(depth.running or 0 for depth in store.stats().queues))
            done, claims = both(store, worker, claims or (), 2) if claims else ([], None)
            assert all(done)
            if claims is None:
                claims = claim_up_to(2, store, worker)
        found.put((mine, most))


@pytest.mark.long
def test_eight_processes_that_race_run_each_task_once_within_the_limits(
    redis_server: RedisServer, store: BothStore, prefix: str
) -> None:
    tasks = [f"t{number}" for number in range(TASKS)]
    declare(store, tasks)
    spawn = multiprocessing.get_context("spawn")
    group, found = spawn.Barrier(PROCESSES), spawn.Queue()
    url = f"{redis_server.url}?prefix={prefix}"
    children = [
        spawn.Process(target=_race, args=(url, f"w{number}", group, found), daemon=True)
        for number in range(PROCESSES)
    ]
    for child in children:
        child.start()
    each = [found.get(timeout=PATIENCE_S * slowness()) for _ in children]
    for child in children:
        child.join(PATIENCE_S)
    assert Counter(task for mine, _ in each for task in mine) == Counter(tasks)
    assert max(most for _, most in each) <= CONCURRENCY
    stats = store.stats()
    assert (running(store), stats.waiting, stats.outcomes) == (0, 0, {"ok": TASKS})
    assert stats.outbox == TASKS
