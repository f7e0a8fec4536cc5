"""The Redis store only: server restarts, refusals, and lost replies."""

from __future__ import annotations

import http.server
import logging
import multiprocessing
import shutil
import socket
import subprocess
import threading
import time
import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis

from agentpipe.brokers.capabilities import Answer, TaskQuery
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.brokers.records import Group, Offer, Queue, Settlement, Worker
from agentpipe.brokers.redis.address import parse_url
from agentpipe.brokers.redis.script_runner import ScriptRunner
from agentpipe.brokers.redis.server_errors import translated
from agentpipe.cli import main
from agentpipe.cli.exit_codes import UNREACHABLE
from agentpipe.core.budgets import Budget
from agentpipe.core.policy import PolicyChange
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import Settings
from brokers.ports import HOST, free_port
from brokers.server_redis import RedisServer
from tests.integration.proxy import Proxy
from tests.stores import claim_up_to, open_any
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.brokers.redis.scripts import Script
    from tests.servers import OwnServer
    from tests.stores import AnyStore

QUEUE = "crew_0"
PATIENCE_S = 30.0


@contextmanager
def opened(url: str) -> Iterator[AnyStore]:
    with closing(open_any(Settings(broker=url))) as store:
        yield store


def declared(store: AnyStore, name: str = QUEUE) -> None:
    store.declare([Queue(name, "crew", max_waiting=10**6, concurrency=100)])


def put(store: AnyStore, ids: str | list[str], queue: str = QUEUE) -> tuple[str, ...]:
    return store.offer(queue, [Offer(each, b"payload") for each in ids], round_robin=False).verdicts


def joined(store: AnyStore, lease_s: float = 60.0) -> Worker:
    worker = Worker(f"worker-{uuid.uuid4().hex[:6]}", lease_s=lease_s, queues=frozenset([QUEUE]))
    store.join(worker)
    return worker


def answers(claims: list[Any]) -> list[Settlement]:
    return [Settlement(claim, "complete", b"result", "ok") for claim in claims]


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return f"{redis_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def store(url: str) -> Iterator[AnyStore]:
    with opened(url) as store:
        declared(store)
        yield store


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def keys_of(url: str) -> str:
    return "{" + url.rpartition("=")[2] + "}"


# Keys.


def test_the_hash_of_tasks_is_as_long_as_there_are_unsettled_ones(
    store: AnyStore, url: str, raw: redis.Redis
) -> None:
    def unsettled() -> Any:
        return raw.hlen(f"{keys_of(url)}:tasks")

    put(store, "abcd")
    store.offer(QUEUE, [Offer("late", b"", delay_s=60)], round_robin=False)
    worker = joined(store)
    claims = claim_up_to(2, store, worker)
    assert unsettled() == 5
    store.settle([*answers(claims[:1]), Settlement(claims[1], "retry", delay_s=60)])
    assert unsettled() == 4
    store.answer([Answer("late", b"", "cancelled")])
    assert unsettled() == 3
    assert raw.zcard(f"{keys_of(url)}:waiting:{QUEUE}") == 2


def test_an_id_of_no_task_in_a_queue_holds_up_no_claim(
    store: AnyStore, url: str, raw: redis.Redis
) -> None:
    store.offer(QUEUE, [Offer(f"t{n}", b"{}") for n in range(3)], round_robin=False)
    waiting = f"{keys_of(url)}:waiting:{QUEUE}"
    for name in (b"nobody", b"\xff"):
        raw.zadd(waiting, {name: -1.0})
    worker = joined(store)
    claims = [*claim_up_to(10, store, worker), *claim_up_to(10, store, worker)]
    assert sorted(claim.task_id for claim in claims) == ["t0", "t1", "t2"]


def test_each_prefix_is_a_store_of_its_own(store: AnyStore, redis_server: RedisServer) -> None:
    with opened(f"{redis_server.url}?prefix=other-{uuid.uuid4().hex[:8]}") as other:
        declared(other)
        assert put(store, "a") == put(other, "a") == ("accepted",)
        assert len(claim_up_to(10, other, joined(other))) == 1
        assert len(claim_up_to(10, store, joined(store))) == 1


def test_nothing_but_the_memory_of_answers_and_ids_is_left_of_what_is_done(
    store: AnyStore, url: str, raw: redis.Redis
) -> None:
    put(store, "ab")
    worker = joined(store)
    store.settle(answers(claim_up_to(2, store, worker)))
    store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 10, 10**6)])
    store.leave(worker)
    found = {key.decode().split(":")[1] for key in raw.scan_iter(f"{keys_of(url)}*", 1000)}
    kept = {"store", "clock", "queues", "ring", "room", "settled", "replies", "tallies", "measures"}
    assert found == kept


def test_answers_are_remembered_for_a_day(store: AnyStore, url: str, raw: redis.Redis) -> None:
    """A worker or trainer that waits for its server repeats its request, even hours later."""
    put(store, "ab")
    worker = joined(store)
    store.settle(answers(claim_up_to(2, store, worker)))
    store.change_policy("nobody", PolicyChange(version=1))
    ages = [raw.ttl(key) for key in raw.scan_iter(f"{keys_of(url)}:replies:*")]
    assert ages
    assert min(ages) > 23 * 3600


def test_no_note_of_a_task_outlives_it(store: AnyStore, url: str, raw: redis.Redis) -> None:
    put(store, "a")
    worker = joined(store)
    (claim,) = claim_up_to(1, store, worker)
    store.settle([Settlement(claim, "cooldown", delay_s=0.001, reason="busy")])
    assert raw.exists(f"{keys_of(url)}:notes")
    (claim,) = wait_until(lambda: claim_up_to(1, store, worker), PATIENCE_S, "it cools down")
    assert claim.cooled_s == 0.001
    store.settle(answers([claim]))
    assert not raw.exists(f"{keys_of(url)}:notes")


def test_nothing_is_left_of_a_group_that_ended(store: AnyStore, url: str, raw: redis.Redis) -> None:
    group = Group("g", (Offer("g/0", b""), Offer("g/1", b"")), need=2)
    store.offer_groups("crew", [group])
    during = {key.decode().split(":", 1)[1] for key in raw.scan_iter(f"{keys_of(url)}*", 1000)}
    assert {"members", "group:g"} <= during
    worker = joined(store)
    store.settle(answers(claim_up_to(2, store, worker)))
    store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 10, 10**6)])
    left = [key.decode() for key in raw.scan_iter(f"{keys_of(url)}*", 1000)]
    assert not [key for key in left if "group" in key or "members" in key]


def test_an_earlier_version_refuses_a_store_with_groups_and_takes_one_without(
    store: AnyStore, url: str, raw: redis.Redis
) -> None:
    put(store, "a")
    assert raw.hget(f"{keys_of(url)}:store", "layout") == b"3"
    store.offer_groups("crew", [Group("g", (Offer("g/0", b""),), need=1)])
    assert raw.hget(f"{keys_of(url)}:store", "layout") == b"4"
    with opened(url) as again:
        assert again.stats().accepted == 2


def test_settling_other_tasks_costs_two_commands_more_while_there_are_groups(
    own_server: OwnServer,
) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store, _client(server) as raw:
        declared(store)
        worker = joined(store)

        def cost_of(name: str) -> int:
            put(store, [f"{name}{index}" for index in range(10)])
            claims = claim_up_to(10, store, worker)
            before = _commands(raw)
            store.settle(answers(claims))
            return _commands(raw) - before

        cost_of("first")
        without = cost_of("without")
        store.offer_groups("crew", [Group("g", (Offer("g/0", b""),), need=1)])
        assert len(claim_up_to(1, store, worker)) == 1
        assert without < cost_of("with") <= without + 2


def _commands(raw: redis.Redis) -> int:
    stats: Any = raw.info("commandstats")
    own = ("info", "hset", "hincrby", "hincrbyfloat")  # Calls of `info` and the clock.
    return sum(it["calls"] for name, it in stats.items() if name.split("_")[1] not in own)


def test_a_layout_of_another_version_is_refused(
    store: AnyStore, url: str, raw: redis.Redis
) -> None:
    put(store, "a")
    for layout in ("99", "theirs"):
        raw.hset(f"{keys_of(url)}:store", "layout", layout)
        with pytest.raises(ConfigError, match=f"has layout {layout}, this agentpipe knows 3 and 4"):
            open_any(Settings(broker=url))


@pytest.mark.parametrize("key", ["store", "sources", "measures", "budgets", "clock"])
def test_what_others_put_into_a_key_leaves_the_rest_readable(
    store: AnyStore, url: str, raw: redis.Redis, key: str
) -> None:
    put(store, "ab")
    raw.hset(f"{keys_of(url)}:{key}", mapping={b"\xff\xfe": b"\x80", "theirs": "not ours", "": ""})
    if key == "clock":
        raw.hset(f"{keys_of(url)}:{key}", mapping={"skew": "not", "seen": b"\xff", "lease": ""})
    with opened(url) as later:
        stats = later.stats()
    assert (stats.accepted, stats.waiting) == (2, 2)
    assert len(claim_up_to(2, store, joined(store))) == 2
    seen: Any = raw.hget(f"{keys_of(url)}:clock", "seen")
    assert float(seen) > 0  # Jumps of the server's clock are detected again.


def test_more_tasks_of_others_than_one_look_can_see_are_passed_over(store: AnyStore) -> None:
    declared(store, "crew_1")
    for first in range(0, 9000, 3000):
        put(store, [f"other-{index}" for index in range(first, first + 3000)], "crew_1")
    put(store, "a")
    assert [each.task_id for each in store.tasks(TaskQuery(queues=[QUEUE]))] == ["a"]


def test_dead_letters_that_fill_several_answers_are_all_read(store: AnyStore) -> None:
    worker, large = joined(store), b"x" * 5_000_000
    for task_id in "abc":
        store.offer(QUEUE, [Offer(task_id, large)], round_robin=False)
        (claim,) = claim_up_to(1, store, worker)
        store.settle([Settlement(claim, "bury", b"{}", "crashed", "it died")])
    assert [letter.task_id for letter in store.read_dead(["c", "a", "b"])] == ["a", "b", "c"]


# Sending many at once.

BULK = 20  # Enough for their payloads to be stored beside the script.


def bulk(store: AnyStore, first: int, payload: bytes) -> tuple[str, ...]:
    offers = [Offer(f"t{number}", payload) for number in range(first, first + BULK)]
    return store.offer(QUEUE, offers, round_robin=False).verdicts


@pytest.mark.parametrize("restarted", [False, True])
def test_known_tasks_keep_their_payloads_and_refused_ones_leave_none(
    own_server: OwnServer, *, restarted: bool
) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store, redis.Redis.from_url(server.url) as raw:
        store.declare([Queue(QUEUE, "crew", max_waiting=25, concurrency=1)])
        assert bulk(store, 0, b"first") == ("accepted",) * 20
        if restarted:
            raw.script_flush()
        expected = ("duplicate",) * 10 + ("accepted",) * 5 + ("refused",) * 5
        assert bulk(store, 10, b"second") == expected
        payloads = raw.hgetall("{agentpipe}:payloads")
        assert payloads == {b"t%d" % n: b"first" if n < 20 else b"second" for n in range(25)}
        assert not raw.exists("{agentpipe}:kept")


def test_a_bulk_is_one_transaction_on_a_server_without_its_script(own_server: OwnServer) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store, redis.Redis.from_url(server.url) as raw:
        store.declare([Queue(QUEUE, "crew", max_waiting=100, concurrency=1)])
        for first in range(0, 3 * BULK, BULK):
            assert bulk(store, first, b"payload") == ("accepted",) * BULK
            raw.script_flush()
        assert raw.info("commandstats")["cmdstat_exec"]["calls"] == 3


def test_the_first_of_two_tasks_of_one_name_counts_within_a_bulk(
    store: AnyStore, url: str, raw: redis.Redis
) -> None:
    offers = [Offer("same", b"%d" % number) for number in range(BULK)]
    verdicts = store.offer(QUEUE, offers, round_robin=False).verdicts
    assert verdicts == ("accepted", *["duplicate"] * (BULK - 1))
    assert raw.hgetall(f"{keys_of(url)}:payloads") == {b"same": b"0"}


def test_a_bulk_without_a_reply_is_repeated_after_its_tasks_have_ended(
    redis_server: RedisServer, store: AnyStore, url: str, raw: redis.Redis
) -> None:
    with Proxy(redis_server.port, odds=1.0) as proxy:
        prefix = url.rpartition("=")[2]
        with opened(f"redis://{HOST}:{proxy.port}/0?prefix={prefix}") as cut_off:
            proxy.may_lose = 2  # The call repeats itself once.
            with pytest.raises(Unreachable):
                bulk(cut_off, 0, b"payload")
            claims = claim_up_to(BULK, store, joined(store))
            again = Settlement(claims[0], "retry", payload=b"changed")
            store.settle([again, *answers(claims[1:])])
            assert len(claims) == BULK
            assert bulk(cut_off, 0, b"payload") == ("accepted",) * BULK
    assert raw.hgetall(f"{keys_of(url)}:payloads") == {claims[0].task_id.encode(): b"changed"}


# Processes.


def offer_in_child(store: AnyStore, verdicts: Any) -> None:
    verdicts.put([put(store, [f"child-{index}"]) for index in range(30)])
    store.wait(0)
    store.close()


def test_a_fork_has_connections_of_its_own(store: AnyStore) -> None:
    put(store, "a")
    store.wait(0)
    fork = multiprocessing.get_context("fork")
    verdicts = fork.Queue()
    child = fork.Process(target=offer_in_child, args=(store, verdicts), daemon=True)
    child.start()
    mine = [put(store, [f"parent-{index}"]) for index in range(30)]
    theirs = verdicts.get(timeout=PATIENCE_S)
    child.join(PATIENCE_S)
    assert mine == theirs == [("accepted",)] * 30
    assert store.stats().waiting == 61


# Restarts and outages.


@contextmanager
def flushable(own_server: OwnServer) -> Iterator[tuple[AnyStore, redis.Redis]]:
    """A store and a client of another server: flushing the shared one would affect other tests."""
    server = own_server(RedisServer)
    with opened(server.url) as store, redis.Redis.from_url(server.url) as client:
        declared(store)
        yield store, client


def test_scripts_come_back_after_a_flush(own_server: OwnServer) -> None:
    with flushable(own_server) as (store, client):
        put(store, "a")
        client.script_flush()
        assert put(store, "b") == ("accepted",)
        worker = joined(store)
        client.script_flush()
        assert len(claim_up_to(10, store, worker)) == 2


def test_a_flush_between_the_load_of_a_script_and_its_call_is_repaired(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flushable(own_server) as (store, client):
        load, left = ScriptRunner._load, [2]  # noqa: SLF001 - a flush right after it

        def load_and_flush(self: ScriptRunner, script: Script) -> None:
            load(self, script)
            if left[0]:
                left[0] -= 1
                client.script_flush()

        monkeypatch.setattr(ScriptRunner, "_load", load_and_flush)
        client.script_flush()
        assert put(store, "a") == ("accepted",)
        assert left == [0]


def test_an_emptied_store_is_declared_anew_and_goes_on(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    with flushable(own_server) as (store, client):
        put(store, "abc")
        worker = joined(store)
        lost = claim_up_to(2, store, worker)
        client.flushall()
        assert store.settle(answers(lost)) == [False, False]
        assert store.heartbeat(worker) is False
        assert claim_up_to(10, store, worker) == []
        assert put(store, "ab") == ("accepted",) * 2
        assert [record.message.partition(" was ")[2] for record in caplog.records] == [
            "emptied: declaring the queues again"
        ]
        store.join(worker)
        again = claim_up_to(10, store, worker)
        assert store.settle(answers(lost)) == [False, False]
        assert store.settle(answers(again)) == [True, True]
        stats = store.stats()
        assert (stats.accepted, stats.outbox) == (2, 2)


def test_a_worker_that_joins_an_emptied_store_declares_its_queues(own_server: OwnServer) -> None:
    with flushable(own_server) as (store, client):
        client.flushall()
        joined(store)
        assert [depth.queue for depth in store.stats().queues] == [QUEUE]


def test_a_worker_that_joins_leaves_the_limits_that_others_declared_since(
    store: AnyStore, url: str
) -> None:
    with opened(url) as later:
        later.declare([Queue(QUEUE, "crew", max_waiting=7)])
        joined(store)
        assert [depth.limit for depth in store.stats().queues] == [7]


def test_a_restart_costs_no_worker_its_lease_however_long_it_took(own_server: OwnServer) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store, opened(server.url) as other:
        declared(store)
        put(store, "ab")
        lease_s = 1.5 * slowness()
        worker, rival = joined(store, lease_s), joined(other, lease_s)
        claims = claim_up_to(1, store, worker)
        server.kill()
        with pytest.raises(Unreachable, match="nothing listens there"):
            store.heartbeat(worker)
        time.sleep(1.1 * lease_s)  # The leases' time passes without heartbeats.
        server.start()
        assert [each.task_id for each in claim_up_to(10, other, rival)] == ["b"]
        assert store.heartbeat(worker)
        assert store.settle(answers(claims)) == [True]


def test_a_server_that_does_not_respond_is_unreachable_and_goes_on_later(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpipe.brokers.redis.client.ANSWER_TIMEOUT_S", 0.3)
    server = own_server(RedisServer)
    with opened(server.url) as store, redis.Redis.from_url(server.url) as client:
        declared(store)
        client.execute_command("CLIENT", "PAUSE", 2_000, "ALL")
        with pytest.raises(Unreachable, match="no answer"):
            put(store, "ab")
        taken = wait_until(lambda: attempt(lambda: put(store, "ab")), PATIENCE_S, "it answers")
        assert taken == ("accepted", "accepted")


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Unreachable:
        return None


# Memory.


def test_a_policy_that_throws_keys_away_is_warned_of(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(RedisServer, settings={"maxmemory-policy": "allkeys-lru"})
    with opened(server.url):
        assert not caplog.records
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "200mb")
    with caplog.at_level(logging.WARNING), opened(server.url):
        (record,) = caplog.records
    assert "maxmemory-policy is allkeys-lru; set it to noeviction" in record.message


def test_full_memory_refuses_tasks_and_nothing_else(own_server: OwnServer) -> None:
    with flushable(own_server) as (store, client):
        put(store, "abc")
        worker = joined(store)
        claims = claim_up_to(1, store, worker)
        client.config_set("maxmemory", 1)
        with pytest.raises(Unreachable, match="memory is full, nothing was stored"):
            put(store, "xyz")
        claims += claim_up_to(10, store, worker)
        assert store.settle(answers(claims)) == [True] * 3
        assert store.heartbeat(worker)
        store.drop_outbox(worker, [each.number for each in store.take_outbox(worker, 10, 10**6)])
        assert store.leave(worker) == 0
        stats = store.stats()
        assert (stats.accepted, stats.delivered) == (3, 3)
        client.config_set("maxmemory", 0)
        assert put(store, "xyz") == ("accepted",) * 3


def test_memory_that_is_full_when_a_transaction_begins_is_an_outage(own_server: OwnServer) -> None:
    url = own_server(RedisServer).url
    with (
        redis.Redis.from_url(url) as other,
        redis.Redis.from_url(url, single_connection_client=True) as client,
    ):
        client.execute_command("MULTI")
        client.execute_command("HSET", "key", "name", "value")
        other.config_set("maxmemory", 1)
        with (
            pytest.raises(Unreachable, match="memory is full, nothing was stored"),
            translated(parse_url(url)),
        ):
            client.execute_command("EXEC")


# URLs.


def works(url: str) -> bool:
    with opened(url) as store:
        declared(store)
        put(store, "a")
        claims = claim_up_to(1, store, joined(store))
        return store.settle(answers(claims)) == [True]


def test_a_socket_file_leads_there(own_server: OwnServer, tmp_path: Path) -> None:
    file = tmp_path / "redis.sock"
    own_server(RedisServer, settings={"unixsocket": str(file)})
    assert works(f"unix://{file}?db=2")


def test_a_password_opens_a_user_and_is_never_shown(
    own_server: OwnServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = own_server(RedisServer)
    with redis.Redis.from_url(server.url) as client:
        for user, channels in (("ann", ["{ann}:*"]), ("bob", [])):
            rules: Any = {"keys": ["{ann}:*"], "channels": channels, "commands": ["+@all"]}
            client.acl_setuser(user, enabled=True, passwords="+canary@1", **rules)
        client.config_set("requirepass", "canary2")
    place = server.url.removeprefix("redis://")
    assert works(f"redis://ann:canary%401@{place}?prefix=ann")
    assert works(f"redis://:canary2@{place}")
    for wrong in (place, f":canary3@{place}", f"ann:canary4@{place}"):
        assert_refused(f"redis://{wrong}", "wrong user or password", capsys)
    assert_refused(f"redis://bob:canary%401@{place}?prefix=ann", "may not do this", capsys)
    assert_refused(f"redis://ann:canary%401@{place}", "may not do this", capsys)
    assert_refused(f"redis://:canary2@{place.replace('/0', '/999')}", "no such database", capsys)


def assert_refused(url: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a command prints one line and returns the exit code."""
    capsys.readouterr()
    assert main(["status", "--broker", url]) == UNREACHABLE
    said = capsys.readouterr().err
    warning, line = said.split("\n", 1) if "@" in url else ("", said)
    assert ("set AGENTPIPE_BROKER instead" in warning) is bool(warning)
    assert line.count("\n") == 1
    assert why in line
    assert "canary" not in line


def test_where_nothing_listens_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(f"redis://:canary@{HOST}:{free_port()}", "nothing listens there", capsys)
    sentinels = f"{HOST}:{free_port()},{HOST}:{free_port()}"
    assert_refused(f"redis+sentinel://{sentinels}/main", "the Sentinels know no such", capsys)
    assert_refused("unix:///nowhere/redis.sock", "nothing listens there", capsys)


def test_where_something_else_answers_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer((HOST, 0), Quiet) as website:
        thread = threading.Thread(target=website.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert_refused(f"redis://{HOST}:{website.server_port}", "no Redis", capsys)
        website.shutdown()
        thread.join()


def test_what_accepts_and_says_nothing_is_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpipe.brokers.redis.client.ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        assert_refused(f"redis://{HOST}:{port}", "does a Redis run there?", capsys)
        assert_refused(f"rediss://{HOST}:{port}", "there, and with TLS?", capsys)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A self-signed certificate for this host, and its key."""
    made = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run([*command, "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    return made


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_tls_is_spoken_where_it_is_asked_for(
    own_server: OwnServer, certificate: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, key = certificate
    port = free_port()
    tls = {"tls-port": str(port), "tls-cert-file": file, "tls-key-file": key}
    own_server(RedisServer, settings={**tls, "tls-ca-cert-file": file, "tls-auth-clients": "no"})
    assert works(f"rediss://{HOST}:{port}?ssl_ca_certs={file}")
    assert works(f"rediss://{HOST}:{port}?ssl_cert_reqs=none&prefix=b")
    assert_refused(f"rediss://{HOST}:{port}", "name its CA with ssl_ca_certs", capsys)
    assert_refused(f"redis://:canary@{HOST}:{port}", "want TLS (rediss://)", capsys)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_sentinels_and_their_primary_speak_tls(
    own_server: OwnServer, certificate: tuple[str, str], tmp_path: Path
) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server on the path")
    file, key = certificate
    primary, port = free_port(), free_port()
    tls = {"tls-cert-file": file, "tls-key-file": key, "tls-ca-cert-file": file}
    tls |= {"tls-auth-clients": "no", "tls-replication": "yes"}
    own_server(RedisServer, settings={**tls, "tls-port": str(primary)})
    own = {"port": "0", "tls-port": str(port), "bind": HOST, "dir": str(tmp_path), **tls}
    lines = [f"{name} {value}" for name, value in own.items()]
    conf = tmp_path / "sentinel.conf"
    conf.write_text("\n".join([*lines, f"sentinel monitor main {HOST} {primary} 1"]) + "\n")
    process = subprocess.Popen([program, str(conf), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(HOST, port, ssl=True, ssl_ca_certs=file) as client:
            wait_until(lambda: answers_ping(client), PATIENCE_S, "the Sentinel answers")
        assert works(f"redis+sentinel://{HOST}:{port}/main?ssl_ca_certs={file}")
        assert works(f"redis+sentinel://{HOST}:{port}/main?tls=yes&ssl_cert_reqs=none&prefix=b")
        with pytest.raises(Unreachable, match="do not answer"):
            works(f"redis+sentinel://{HOST}:{port}/main")
    finally:
        process.kill()
        process.wait()


def test_a_node_of_a_cluster_holds_all_keys_of_a_store(own_server: OwnServer) -> None:
    server = own_server(
        RedisServer, settings={"cluster-enabled": "yes", "cluster-port": f"{free_port()}"}
    )
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: cluster_state(client) == "ok", PATIENCE_S, "the cluster is up")
    with opened(server.url) as store:
        use_every_operation(store)


def use_every_operation(store: AnyStore) -> None:
    """Use all scripts: the server refuses a script whose keys are in several slots."""
    declared(store)
    store.declare([Queue("crew_1", "crew")])  # The other queue leaves the round-robin group.
    put(store, "abcdef")
    store.offer("crew", [Offer("late", b"", priority=1, delay_s=60)], round_robin=True)
    worker, silent = joined(store), joined(store, 0.1)
    claim_up_to(1, store, silent, held=0)
    claims = claim_up_to(3, store, worker)
    actions: tuple[Any, ...] = ("bury", "retry", "release")
    batch = [Settlement(*pair, b"{}", "ok") for pair in zip(claims, actions, strict=True)]
    assert store.settle(batch) == [True] * 3
    assert store.answer([Answer("late", b"", "cancelled")]) == [True]
    wait_until(lambda: len(store.stats().workers) == 1, PATIENCE_S, "the silent one lapses")
    assert claim_up_to(1, store, worker)
    assert not store.heartbeat(silent)
    records = store.take_outbox(worker, 1, 100)
    store.drop_outbox(worker, [record.number for record in records])
    assert store.take_outbox(worker, 1, 100)
    assert store.leave(worker)
    assert store.tasks(TaskQuery(limit=10))
    store.pause(collections=["crew"], queues=["crew_1"], paused=True)
    assert store.cancel(["unknown"]) == ["unknown"]
    assert store.tasks(TaskQuery("running")) == []
    assert store.locate("unknown").place == "unknown"
    (letter,) = store.dead_letters(DeadFilter(), "", 10).letters
    assert letter.task_id == claims[0].task_id
    assert store.count_dead(DeadFilter()) == len(store.read_dead([letter.task_id])) == 1
    assert store.drop_dead([claims[0].task_id]) == 1
    assert store.stats().delivered == 1


def cluster_state(client: redis.Redis) -> str:
    info: Any = client.cluster("INFO")
    return str(info["cluster_state"])


@pytest.fixture
def sentinel(own_server: OwnServer, tmp_path: Path) -> Iterator[tuple[int, RedisServer]]:
    """A Sentinel's port, and the server that it monitors."""
    server = own_server(RedisServer)
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind {HOST}\ndir {tmp_path}\nsentinel monitor main {HOST} {server.port} 1\n"
    )
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server on the path")
    process = subprocess.Popen([program, str(conf), "--sentinel"], stdout=subprocess.DEVNULL)
    with redis.Redis(HOST, port) as client:
        wait_until(lambda: answers_ping(client), PATIENCE_S, "the Sentinel answers")
    yield port, server
    process.kill()
    process.wait()


def answers_ping(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_sentinels_lead_to_the_primary(sentinel: tuple[int, RedisServer]) -> None:
    port, server = sentinel
    url = f"redis+sentinel://{HOST}:{free_port()},{HOST}:{port}/main"
    assert works(url)
    with opened(url) as store:
        assert put(store, "b") == ("accepted",)
        server.kill()
        server.start()
        assert put(store, "bc") == ("duplicate", "accepted")


# Lost replies.


class Insistent:
    """Retries calls that get no reply, as senders and workers do."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self.gave_up = 0

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                try:
                    return getattr(self._store, operation)(*args, **options)
                except Unreachable:
                    self.gave_up += 1
            raise AssertionError(f"{operation} got no answer")

        return call


def test_lost_answers_strand_lose_and_double_nothing(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port, odds=0.3) as proxy:
        url = f"redis://{HOST}:{proxy.port}/0?prefix=test-{uuid.uuid4().hex[:8]}"
        with opened(url) as store:
            declared(store)
            worker = joined(store)
            proxy.may_lose = 100
            tasks, delivered, insistent = lossy_runs(Insistent(store), worker, proxy)
            stats = store.stats()
            assert insistent.gave_up
            assert store.leave(worker) == 0
    assert sorted(delivered) == sorted(tasks)
    assert (stats.accepted, stats.delivered) == (len(tasks), len(tasks))
    assert (stats.dead, stats.outcomes) == (0, {"ok": len(tasks)})


def lossy_runs(store: Any, worker: Worker, proxy: Proxy) -> tuple[list[str], list[str], Any]:
    """Offer, run and deliver until enough replies were lost; each step must report the truth."""
    tasks: list[str] = []
    delivered: list[str] = []
    held: list[Any] = []
    while proxy.may_lose or len(delivered) < len(tasks):
        if proxy.may_lose:
            batch = [f"{len(tasks) + index}" for index in range(3)]
            assert (
                store.offer(QUEUE, [Offer(each, b"") for each in batch], round_robin=False).verdicts
                == ("accepted",) * 3
            )
            tasks += batch
        held += claim_up_to(3, store, worker)
        release = [Settlement(each, "release") for each in held[2:]]
        assert store.settle([*release, *answers(held[:2])]) == [True] * len(held)
        held = []
        records = store.take_outbox(worker, 10, 10**6)
        delivered += [record.task_id for record in records]
        store.drop_outbox(worker, [record.number for record in records])
    return tasks, delivered, store


def test_rows_that_make_no_sense_hide_no_others(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = f"odd-{uuid.uuid4().hex[:6]}"
    with opened(f"{redis_server.url}?prefix={prefix}") as store, _client(redis_server) as client:
        declared(store)
        for run in ("v1", "v2", "v3"):
            store.begin_run(run, b"{}")
            store.set_budget("run", run, Budget(usd=1.0))
        keys = {key.decode() for key in client.scan_iter(f"*{prefix}*")}
        (of_v2,) = (key for key in keys if key.endswith(":run:v2"))
        (of_v3,) = (key for key in keys if key.endswith(":run:v3"))
        (budgets,) = (key for key in keys if key.endswith(":budgets"))
        client.hset(of_v2, "tasks", "many")
        client.delete(of_v3)
        client.set(of_v3, "a string")
        client.hset(budgets, "run v2", "no budget")
        client.hset(budgets, "odd", b"\x93\x01\x02\x03")
        runs = {each.name: each.exact for each in store.runs()}
        assert runs == {"v1": True, "v2": False}
        assert {each.name for each in store.spendings()} == {"v1", "v3"}
        assert {each.name for each in store.stats().spendings} == {"v1", "v3"}
        worker = joined(store)
        put(store, ["v1/a"])
        (claim,) = claim_up_to(1, store, worker)
        paid = Settlement(claim, "complete", b"{}", "ok", usd=5.0)
        assert store.settle([paid]) == [True]
    said = {record.getMessage().partition(":")[0] for record in caplog.records}
    assert said == {"runs that cannot be read", "run v2", "budgets that cannot be read"}


@contextmanager
def _client(server: RedisServer) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(server.url)) as client:
        yield client


def test_an_overwritten_count_of_a_run_stops_no_task_and_is_told(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = f"odd-{uuid.uuid4().hex[:6]}"
    with opened(f"{redis_server.url}?prefix={prefix}") as store, _client(redis_server) as client:
        declared(store)
        store.begin_run("v1", b"{}")
        put(store, ["v1/1", "v1/2"])
        worker = joined(store)
        store.settle(answers(claim_up_to(1, store, worker)))
        (key,) = client.scan_iter(f"*{prefix}*:run:v1")
        client.hset(key, "tasks", "many")
        (found,) = store.runs()
        assert (found.tasks, found.exact) == (1, False)
        assert "run v1: its counts in the broker were overwritten" in caplog.text
        put(store, ["v1/3", "v1/4", "v1/5"])
        client.hset(key, "usd", "-")
        assert all(store.settle(answers(claim_up_to(4, store, worker))))
        (found,) = store.runs()
        assert (found.tasks, found.exact, found.outcomes) == (5, False, {"ok": 5})
