"""The RabbitMQ sink only: a queue that any client can read, and the limits of queues."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pika
import pytest

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, StoreError, Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Reader, Record, Sink
from agentpipe.sinks.stream import Stream
from brokers.ports import free_port
from brokers.server_rabbitmq import RabbitServer
from tests.conformance.processes import read_and_hang
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.connections.amqp.connection import Session
    from agentpipe.sinks.rabbitmq import RabbitSink
    from tests.servers import OwnServer

PATIENCE_S = 20.0
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def url(rabbitmq_server: RabbitServer, topic: str) -> str:
    return f"{rabbitmq_server.url}?topic={topic}"


def records(ids: Iterable[Any]) -> list[Record]:
    return [Record(str(each), f"result of {each}".encode()) for each in ids]


def read(reader: Reader, number: int) -> list[str]:
    found: list[str] = []

    def enough() -> bool:
        found.extend(record.task_id for record in reader.poll(100, 0.2))
        return len(found) >= number

    wait_until(enough, PATIENCE_S, f"{number} records")
    return found


def bare(server: RabbitServer, queue: str) -> list[tuple[int, bytes]]:
    """Delivery mode and body of all messages that a pika client gets from a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(server.url))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)  # Declared as other clients do.
    found: list[tuple[int, Any]] = []  # The stubs type the body as str.
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append((got[1].delivery_mode or 0, got[2]))
    connection.close()
    return found


# Messages of other publishers.


@pytest.mark.long
def test_what_others_put_into_the_queues_is_skipped_and_counted(
    sink: Sink, rabbitmq_server: RabbitServer, topic: str
) -> None:
    sink.publish([])
    readers = [sink.follow(group, "now") for group in (None, f"group-{topic}")]
    headers = {"agentpipe-id": 5, "agentpipe-published": "late"}
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url)) as connection:
        channel = connection.channel()
        channel.basic_publish(topic, "", b"")
        channel.basic_publish(topic, "", b"[" * 100_000, pika.BasicProperties(headers=headers))
        channel.basic_publish(topic, "", b'{"schema": 9}', pika.BasicProperties(type="theirs"))
    sink.publish([Record("a", Result(task_id="a").encode(Redactor(())))])
    for reader in readers:
        with Stream(reader, timeout_s=5) as stream:
            assert [each.task_id for each in stream] == ["a"]
            assert stream.skipped == 3


# A queue without a stream.


def test_the_topics_queue_is_anybodys_and_nobody_of_ours_takes_from_it(
    sink: Sink, rabbitmq_server: RabbitServer, topic: str
) -> None:
    sink.publish(records("a"))
    tail, one, two = (sink.follow(group, "now") for group in (None, "one", "two"))
    sink.publish(records("bc"))
    for reader in (tail, one, two):
        found = read(reader, 2)
        assert found == ["b", "c"]
        reader.close()
    taken = bare(rabbitmq_server, topic)
    assert taken == [(2, b"result of a"), (2, b"result of b"), (2, b"result of c")]


def test_the_group_of_the_topics_name_reads_that_queue(
    sink: Sink, rabbitmq_server: RabbitServer, topic: str
) -> None:
    sink.publish(records("abc"))
    reader = sink.follow(topic, "beginning")
    first, *_ = reader.poll(10, PATIENCE_S)
    reader.commit(first)
    assert reader.recall() == []
    reader.close()
    left: list[tuple[int, bytes]] = []

    def all_taken() -> bool:
        left.extend(bare(rabbitmq_server, topic))
        return len(left) == 2

    wait_until(all_taken, PATIENCE_S, "what was not committed is there")
    assert [body for _, body in left] == [b"result of b", b"result of c"]


@pytest.mark.parametrize("start", ["beginning", 1.0])
def test_what_a_queue_forgot_is_said_and_not_pretended(sink: Sink, topic: str, start: Any) -> None:
    sink.publish(records("a"))
    for group in (None, "late"):
        with pytest.raises(ConfigError, match="stream=yes") as told:
            sink.follow(group, start)
        assert topic in str(told.value)
        assert "\n" not in str(told.value)
        assert "guest:guest" not in str(told.value)


def test_who_was_there_before_the_first_result_has_the_beginning(sink: Sink) -> None:
    reader = sink.follow("early", "beginning")
    sink.publish(records("ab"))
    assert read(reader, 2) == ["a", "b"]
    reader.close()


def test_a_group_goes_on_without_a_stream(sink: Sink) -> None:
    sink.follow("group", "now").close()
    sink.publish(records("ab"))
    reader = sink.follow("group", "beginning")
    assert read(reader, 2) == ["a", "b"]
    reader.close()


def test_a_killed_reader_gives_back_what_it_had(sink: Sink, url: str) -> None:
    sink.follow("group", "now").close()
    sink.publish(records(range(10)))
    polled = SPAWN.Queue()
    process = SPAWN.Process(
        target=read_and_hang, args=(Settings(sink=url), "group", 4, polled), daemon=True
    )
    process.start()
    pid, lent = polled.get(timeout=60)
    reader = sink.follow("group", "now")
    mine = read(reader, 10 - len(lent))
    assert set(mine).isdisjoint(lent)
    os.kill(pid, signal.SIGKILL)
    process.join(30)
    assert sorted(read(reader, len(lent) - 1)) == sorted(lent[1:])
    reader.close()


# With a stream.


def test_a_stream_is_read_from_the_beginning_as_often_as_one_likes(
    url: str, rabbitmq_server: RabbitServer, topic: str
) -> None:
    sink = open_sink(Settings(sink=f"{url}&stream=yes"))
    sink.publish(records(range(1200)))
    expected = [str(number) for number in range(1200)]
    for group in (None, None, "one", "two"):
        reader = sink.follow(group, "beginning")
        assert read(reader, 1200) == expected
        reader.close()
    sink.close()
    assert len(bare(rabbitmq_server, topic)) == 1200


def test_a_poll_without_patience_finds_what_is_there(url: str) -> None:
    sink = open_sink(Settings(sink=f"{url}&stream=yes"))
    sink.publish(records(range(500)))
    for group in (None, "group"):
        reader = sink.follow(group, "beginning")
        found = 0
        while polled := reader.poll(100, 0):
            found += len(polled)
        assert found == 500
        reader.close()
    sink.close()


def test_a_group_that_was_left_half_filled_is_filled_again(
    url: str, rabbitmq_server: RabbitServer, topic: str
) -> None:
    sink = open_sink(Settings(sink=f"{url}&stream=yes"))
    sink.publish(records("ab"))
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url))
    arguments = {"x-consumer-timeout": 7 * 86_400_000}
    connection.channel().queue_declare(f"{topic}.group.g", durable=True, arguments=arguments)
    connection.close()
    reader = sink.follow("g", "beginning")
    assert read(reader, 2) == ["a", "b"]
    reader.close()
    sink.close()


# Server failures and wrong URLs.


@pytest.mark.long
def test_a_killed_server_keeps_what_it_confirmed(own_server: OwnServer, topic: str) -> None:
    server = own_server(RabbitServer)
    sink = open_sink(Settings(sink=f"{server.url}?topic={topic}"))
    group, tail = sink.follow("group", "now"), sink.follow(None, "now")
    confirmed: list[str] = []
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            batch = [f"{number}-{index}" for index in range(20)]
            try:
                sink.publish(records(batch))
            except Unreachable:
                stop.wait(0.05)
                continue
            confirmed.extend(batch)
            number += 1

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(lambda: len(confirmed) > 400, PATIENCE_S, "results flow")
    server.kill()
    before = len(confirmed)
    server.start()
    wait_until(lambda: len(confirmed) > before + 400, 60, "results flow again")
    stop.set()
    thread.join()
    for reader in (group, tail):  # They continue on the new connection.
        missing = set(confirmed)
        wait_until(lambda: _without(missing, reader), 60, "all is read")  # noqa: B023
        reader.close()
    sink.close()
    assert set(confirmed) <= {body.decode()[10:] for _, body in bare(server, topic)}


def _without(missing: set[str], reader: Reader) -> bool:
    try:
        missing -= {record.task_id for record in reader.poll(100, 0.2)}
    except Unreachable:
        return False
    return not missing


@pytest.mark.parametrize("group", ["group", None])
def test_a_binding_that_a_killed_server_forgot_is_made_again(
    sink: RabbitSink, rabbitmq_server: RabbitServer, topic: str, group: str | None
) -> None:
    """Regression: RabbitMQ 3.10 can forget it, and the reader silently got no more records."""
    reader: Any = sink.follow(group, "now")
    sink.publish(records("a"))
    assert read(reader, 1) == ["a"]
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url)) as connection:
        connection.channel().queue_unbind(reader._queue.name, topic)  # noqa: SLF001 - no public name for the queue
    sink._link.run(_end_session)  # noqa: SLF001 - as a killed server does
    with suppress(Unreachable):
        reader.poll(1, 0)
    sink.publish(records("b"))
    wait_until(lambda: "b" in read(reader, 1), PATIENCE_S, "what is published from then on")
    reader.close()


async def _end_session(session: Session) -> None:
    session.close()
    await session.ended()


@pytest.mark.long
def test_a_commit_after_a_reconnect_takes_nothing_that_is_not_its_own(
    own_server: OwnServer, topic: str
) -> None:
    server = own_server(RabbitServer)
    sink = open_sink(Settings(sink=f"{server.url}?topic={topic}"))
    reader = sink.follow("group", "now")
    sink.publish(records("abc"))
    old = reader.poll(3, PATIENCE_S)[-1]
    server.stop()
    with pytest.raises(Unreachable, match=r"nothing listens|connection was lost"):
        reader.poll(1, 0)
    server.start()
    wait_until(lambda: _answers(lambda: reader.poll(3, 1)), 30, "it recovers by itself")
    reader.commit(old)
    reader.close()
    again = sink.follow("group", "now")
    assert sorted(read(again, 3)) == ["a", "b", "c"]
    again.close()
    sink.close()


def _answers(call: Callable[[], object]) -> bool:
    try:
        return bool(call())
    except Unreachable:
        return False


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("amqp://guest:wrong@127.0.0.1:{port}/%2F", "user or password"),
        ("amqp://guest:guest@127.0.0.1:{port}/none", "vhost"),
        ("amqp://guest:guest@127.0.0.1:{free}/", "nothing listens there"),
        ("amqps://guest:guest@127.0.0.1:{port}/%2F", "amqp://"),
    ],
)
def test_where_nobody_lets_us_in_is_told_in_one_line(
    rabbitmq_server: RabbitServer, pattern: str, word: str
) -> None:
    url = pattern.format(port=rabbitmq_server.port, free=free_port())
    with pytest.raises(Unreachable, match=word) as told:
        open_sink(Settings(sink=url))
    assert "\n" not in str(told.value)
    assert not any(each in str(told.value) for each in ("guest:guest", "wrong@"))


@pytest.mark.parametrize(
    "query", ["topc=a", "prefix=a", "stream=maybe", "topic=amq.x", f"topic={'a' * 200}"]
)
def test_a_wrong_parameter_is_told(query: str) -> None:
    with pytest.raises(ConfigError) as told:
        open_sink(Settings(sink=f"amqp://ann:s3cret@host/?{query}"))
    assert "s3cret" not in str(told.value)


def test_an_exchange_of_another_kind_is_told(
    sink: Sink, rabbitmq_server: RabbitServer, topic: str
) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url))
    connection.channel().exchange_declare(topic, durable=True)  # A direct exchange.
    connection.close()
    with pytest.raises(StoreError, match=r"of another kind .*\?topic="):
        sink.publish(records("a"))


def test_many_idle_polls_leave_nothing_behind(sink: Sink) -> None:
    reader = sink.follow("group", "now")
    begun = time.monotonic()
    for _ in range(300):
        assert reader.poll(10, 0) == []
    assert time.monotonic() - begun < PATIENCE_S * slowness()
    sink.publish(records("a"))
    assert read(reader, 1) == ["a"]
    reader.close()
