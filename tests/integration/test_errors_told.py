"""Errors are reported as what they are: a store's refusal is not called an outage."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pika
import pytest
import redis

from agentpipe.brokers.records import Offer, Queue
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.connection import error_of_channel
from agentpipe.errors import StoreError, Unreachable
from agentpipe.settings import Settings
from brokers.server_redis import RedisServer
from tests.stores import open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.project import Project
    from tests.servers import OwnServer
    from tests.stores import AnyStore

PATIENCE_S = 30.0
AWAY = "does not answer"


@contextmanager
def opened(url: str) -> Iterator[AnyStore]:
    with closing(open_any(Settings(broker=url))) as store:
        store.declare([Queue("queue")])
        yield store


def put(store: AnyStore) -> None:
    store.offer("queue", [Offer(uuid.uuid4().hex, b"{}")], round_robin=False)


def wrong_type(client: redis.Redis, base: str) -> None:
    client.delete(f"{base}:payloads")
    client.set(f"{base}:payloads", "a string")


def spoilt(client: redis.Redis, base: str) -> None:
    client.hset(f"{base}:queues", "queue", b"\xc1 no msgpack")


@pytest.mark.parametrize(
    ("spoil", "words"), [(wrong_type, "WRONGTYPE"), (spoilt, "script")], ids=["type", "script"]
)
def test_what_redis_answers_to_a_mistake_is_no_outage(
    redis_server: RedisServer, spoil: Callable[[redis.Redis, str], None], words: str
) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    url = f"{redis_server.url}?prefix={prefix}"
    with opened(url) as store, redis.Redis.from_url(redis_server.url) as client:
        spoil(client, f"{{{prefix}}}")
        with pytest.raises(StoreError, match=words) as caught:
            put(store)
        assert AWAY not in str(caught.value)


def full(client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)


def read_only(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")
    client.config_set("replica-serve-stale-data", "yes")


def locked(client: redis.Redis) -> None:
    client.config_set("requirepass", "new-password")
    client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (full, "memory is full"),
        (read_only, "a replica that takes no writes: name the primary"),
        (locked, "wrong user or password"),
    ],
    ids=["oom", "readonly", "noauth"],
)
def test_a_redis_that_refuses_everything_is_told_to_answer(
    own_server: OwnServer, spoil: Callable[[redis.Redis], None], words: str
) -> None:
    server = own_server(RedisServer)
    with opened(server.url) as store, redis.Redis.from_url(server.url) as client:
        put(store)
        spoil(client)
        with pytest.raises(Unreachable, match=words) as caught:
            put(store)
        assert caught.value.answers
        assert caught.value.ailment == "refuses everything for now"
        client.config_set("requirepass", "")  # The fixture stops the server without a password.


def test_a_queue_of_another_kind_is_no_outage_of_rabbitmq(rabbitmq_server: RabbitServer) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url))) as connection:
        connection.channel().queue_declare(f"{prefix}.outbox", durable=False, auto_delete=True)
        with pytest.raises(StoreError, match=r"of another kind .*\?prefix= of your own") as caught:
            open_any(Settings(broker=f"{rabbitmq_server.url}?prefix={prefix}"))
    assert AWAY not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "text", "kind", "words"),
    [
        (
            403,
            "ACCESS_REFUSED - access to queue 'q' refused",
            StoreError,
            "the user may not do this",
        ),
        (404, "NOT_FOUND - no exchange 'e'", Unreachable, "was deleted: NOT_FOUND"),
        (406, "PRECONDITION_FAILED - inequivalent arg 'durable'", StoreError, "of another kind"),
        (
            406,
            "PRECONDITION_FAILED - message size 9 is larger than configured max size 8",
            StoreError,
            "raise max_message_size",
        ),
        (406, "PRECONDITION_FAILED - unknown delivery tag 7", Unreachable, "connection was lost"),
        (
            406,
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out",
            Unreachable,
            "",
        ),
        (320, "CONNECTION_FORCED - broker forced connection closure", Unreachable, "was lost"),
        (0, "StreamLostError", Unreachable, "was lost"),
    ],
)
def test_the_end_of_a_channel_is_told_by_its_code(
    code: int, text: str, kind: type[Exception], words: str
) -> None:
    error = error_of_channel(ChannelClosed(text, code), "amqp://host/", "?prefix=")
    assert type(error) is kind
    assert words in str(error)
    assert text in str(error)


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.execute(statement)
        db.commit()


def test_a_worker_tells_what_its_store_answers_and_goes_on_when_it_is_mended(
    project: Project,
) -> None:
    project.collection()
    project.send("echo one")
    store = project.folder / "store" / "broker.db"
    _execute(
        store,
        "CREATE TRIGGER picky BEFORE UPDATE OF state ON tasks"
        " BEGIN SELECT RAISE(ABORT, 'no claims today'); END",
    )
    fleet = project.work("--processes", "1").ready(1)
    wait_until(lambda: "no claims today" in fleet.log, PATIENCE_S, "the worker says so")
    assert AWAY not in fleet.log
    assert "the broker answers with an error, the worker tries again: " in fleet.log
    _execute(store, "DROP TRIGGER picky")
    project.until(delivered=1)
    assert fleet.stop() == 0


def test_a_command_tells_what_its_store_answers(project: Project) -> None:
    project.collection()
    project.send("echo one")
    _execute(
        project.folder / "store" / "broker.db",
        "CREATE TRIGGER picky BEFORE INSERT ON tasks"
        " BEGIN SELECT RAISE(ABORT, 'no tasks today'); END",
    )
    for more in ((), ("--on-full", "wait")):
        done = project.run("send", "toys", "hi", *more)
        assert done.code == 1, done
        assert "no tasks today" in done.err
        assert AWAY not in done.err
        assert "Traceback" not in done.err
