"""Redis while its server's clock changes: durations stay correct."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from brokers.server_redis import RedisServer
from tests.budget_jumps import check_caps_over_jumps
from tests.servers import started
from tests.stores import ROOMY, open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.records import Claim
    from tests.stores import AnyStore

HOUR_S = 3600
JUMPS = [*(pytest.param(each, marks=pytest.mark.long) for each in (60, -60)), HOUR_S, -HOUR_S]
SOURCE = Path(__file__).parents[1] / "shifted_clock.c"
pytestmark = pytest.mark.server


class ShiftedServer:
    """A Redis server whose wall clock can be set."""

    def __init__(self, folder: Path) -> None:
        library, self._shift = folder / "shifted_clock.so", folder / "shift"
        subprocess.run([_compiler(), "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        self._shift.write_bytes(struct.pack("l", 0))
        self._shifted_s = 0
        shifted = {"LD_PRELOAD": str(library), "SHIFTED_BY": str(self._shift)}
        self._server = RedisServer(folder / "redis", environ=os.environ | shifted)
        self.url = started(self._server).url

    def jump(self, seconds: int) -> None:
        """Shift the clock; the server sees time pass without any call."""
        self._shifted_s += seconds
        with self._shift.open("r+b") as file:
            file.write(struct.pack("l", self._shifted_s))

    def now(self) -> float:
        """The server's current time."""
        return time.time() + self._shifted_s

    def close(self) -> None:
        self._server.drop()


def _compiler() -> str:
    found = shutil.which("cc")
    if found is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    return found


class Bench:
    """A store with a prefix of its own on that server."""

    def __init__(self, server: ShiftedServer) -> None:
        self.jump, self.now = server.jump, server.now
        self._settings = Settings(broker=f"{server.url}?prefix=test-{uuid.uuid4().hex[:8]}")
        self._opened: list[AnyStore] = []

    def open(self) -> AnyStore:
        self._opened.append(open_any(self._settings))
        self._opened[-1].declare([Queue("q", concurrency=10)])
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShiftedServer]:
    with closing(ShiftedServer(tmp_path_factory.mktemp("shifted"))) as made:
        yield made


@pytest.fixture
def bench(server: ShiftedServer) -> Iterator[Bench]:
    with closing(Bench(server)) as made:
        yield made


def joined(store: AnyStore, lease_s: float = 30.0) -> Worker:
    worker = Worker(uuid.uuid4().hex, queues=frozenset({"q"}), lease_s=lease_s, slots=10)
    store.join(worker)
    return worker


def offer(store: AnyStore, task_id: str, delay_s: float = 0.0) -> str:
    offers = [Offer(task_id, b"{}", delay_s=delay_s)]
    return store.offer("q", offers, round_robin=False).verdicts[0]


def claim(store: AnyStore, worker: Worker) -> list[Claim]:
    return store.claim(ClaimRequest(worker, 10, ROOMY))


def settled(store: AnyStore, claims: list[Claim]) -> list[bool]:
    return store.settle([Settlement(each, "complete", b"{}", "ok") for each in claims])


@pytest.mark.parametrize("seconds", JUMPS)
@pytest.mark.parametrize("first", ["its own", "another's", "a new one's", "a command's"])
def test_a_living_worker_keeps_its_tasks_whoever_calls_first(
    bench: Bench, seconds: int, first: str
) -> None:
    store, other = bench.open(), bench.open()
    worker, rival = joined(store), joined(other)
    offer(store, "a")
    claims = claim(store, worker)
    bench.jump(seconds)
    if first == "another's":
        assert claim(other, rival) == []
    elif first == "a new one's":
        new = bench.open()
        assert claim(new, joined(new)) == []
    elif first == "a command's":
        assert bench.open().cancel(["a"]) == ["signalled"]
    assert store.heartbeat(worker)
    assert claim(other, rival) == []
    assert {seen.seen_s < 30 for seen in store.stats().workers} == {True}
    assert settled(store, claims) == [True]


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_dead_worker_is_noticed_after_its_lease(bench: Bench, seconds: int) -> None:
    store, other = bench.open(), bench.open()
    dead, worker = joined(store, 2.0), joined(other)
    offer(store, "a")
    began = time.monotonic()
    assert claim(store, dead)
    claim(other, worker)
    bench.jump(seconds)
    wait_until(lambda: claim(other, worker), 10, "its task is claimed again")
    assert time.monotonic() - began > 0.5
    assert [seen.name for seen in store.stats().workers] == [worker.name]


@pytest.mark.parametrize("seconds", JUMPS)
def test_delays_cooldowns_and_known_ids_last_as_long_as_they_should(
    bench: Bench, seconds: int
) -> None:
    store = bench.open()
    worker = joined(store, 600)
    for task_id in ("a", "b"):
        offer(store, task_id)
    again, done = claim(store, worker)
    settled(store, [done])
    store.settle([Settlement(again, "retry", delay_s=0.3)])
    offer(store, "long", HOUR_S / 2)
    submitted_at = bench.now()
    bench.jump(seconds)
    claims = wait_until(lambda: claim(store, worker), 10, "the short delay ends")
    assert [each.task_id for each in claims] == ["a"]
    assert offer(store, "b") == "duplicate"
    place = store.locate("long")
    assert abs((place.due_at or 0.0) - bench.now() - HOUR_S / 2) < 60
    assert abs((place.submitted_at or 0.0) - submitted_at) < 60
    store.settle([Settlement(claims[0], "cooldown", delay_s=HOUR_S / 2)])
    bench.jump(seconds)
    assert claim(store, worker) == []
    (queue,) = store.stats().queues
    assert HOUR_S / 2 - 60 < (queue.cooldown_s or 0.0) < HOUR_S / 2 + 60


def test_after_a_silence_of_all_each_worker_has_time_for_one_heartbeat(bench: Bench) -> None:
    store = bench.open()
    living, dead = joined(store), joined(store)
    offer(store, "a")
    assert claim(store, living)
    offer(store, "b")
    assert claim(store, dead)
    bench.jump(HOUR_S)
    other = bench.open()
    rival = joined(other)
    assert claim(other, rival) == []
    assert store.heartbeat(living)
    bench.jump(20)
    new = bench.open()
    assert [each.task_id for each in claim(new, joined(new))] == ["b"]
    assert store.heartbeat(living)
    assert not store.heartbeat(dead)


def test_what_was_due_while_nothing_ran_is_due(bench: Bench) -> None:
    store = bench.open()
    joined(store)
    offer(store, "a", HOUR_S)
    store.close()
    bench.jump(2 * HOUR_S)
    new = bench.open()
    assert [each.task_id for each in claim(new, joined(new))] == ["a"]


@pytest.mark.parametrize("seconds", [2 * HOUR_S, -2 * HOUR_S])
def test_budgets_stop_at_their_caps_and_not_before(bench: Bench, seconds: int) -> None:
    store = bench.open()
    worker = joined(store, 600)
    check_caps_over_jumps(store, worker, lambda: bench.jump(seconds), lambda: bench.jump(-seconds))
