"""What is RabbitMQ's alone as a sink: the queue that all know, groups beside it, no past."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pika
import pytest

from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.sink import Record
from agentpipe.stream import Stream
from agentpipe.task import Result
from brokers.server_rabbitmq import RabbitServer
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.sinks.sink import Sink
    from tests.integration.project import Project
    from tests.servers import OwnServer


@pytest.fixture
def topic() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def url(rabbitmq_server: RabbitServer, topic: str) -> str:
    return f"{rabbitmq_server.url}?topic={topic}"


@pytest.fixture
def sink(url: str) -> Iterator[Sink]:
    opened = open_sink(Settings(sink=url))
    yield opened
    opened.close()


def records(*ids: str) -> list[Record]:
    return [Record(each, orjson.dumps(Result(task_id=each).to_dict())) for each in ids]


def ids_of(sink: Sink, group: str | None, start: Any = "now") -> list[str]:
    with Stream(sink.follow(group, start), timeout_s=0.2) as stream:
        return [result.task_id for result in stream]


@contextmanager
def bare(url: str) -> Iterator[Any]:
    """A channel of pika's own."""
    connection = pika.BlockingConnection(pika.URLParameters(url.partition("?")[0]))
    yield connection.channel()
    connection.close()


def test_a_bare_client_reads_the_queue_of_the_topic_whoever_reads_beside_it(
    sink: Sink, url: str, topic: str
) -> None:
    tail, group = sink.follow(None, "now"), sink.follow("trainer", "now")
    sink.publish(records("a", "b"))
    for reader in (tail, group):
        assert [each.task_id for each in reader.poll(10, 10)] == ["a", "b"]
        reader.close()
    with bare(url) as channel:
        for expected in "ab":
            _, properties, body = channel.basic_get(topic, auto_ack=True)
            assert orjson.loads(body)["task_id"] == expected
            assert properties.delivery_mode == 2


def test_the_topics_queue_takes_results_before_anybody_reads(sink: Sink, topic: str) -> None:
    sink.publish(records("a", "b"))
    assert ids_of(sink, topic, "beginning") == ["a", "b"]
    assert ids_of(sink, topic, "beginning") == []


@pytest.mark.parametrize("group", [None, "trainer"])
@pytest.mark.parametrize("start", ["beginning", 1.0])
def test_that_a_queue_holds_no_past_is_said(sink: Sink, group: str | None, start: Any) -> None:
    sink.publish(records("a"))
    with pytest.raises(ConfigError, match="stream=yes"):
        sink.follow(group, start)


def test_a_group_that_is_there_goes_on_whatever_start_is_given(sink: Sink) -> None:
    sink.follow("trainer", "now").close()
    sink.publish(records("a"))
    assert ids_of(sink, "trainer", "beginning") == ["a"]


def test_a_group_whose_filling_was_cut_short_is_filled_anew(url: str, topic: str) -> None:
    sink = open_sink(Settings(sink=f"{url}&stream=yes"))
    sink.publish(records("a", "b", "c"))
    with bare(url) as channel:  # As a reader leaves it that dies in the middle.
        channel.queue_declare(f"{topic}.trainer.filling", durable=True)
    sink.follow("other", "beginning").close()
    with bare(url) as channel:
        arguments = {"x-consumer-timeout": 7 * 86_400_000}
        channel.queue_declare(f"{topic}.trainer", durable=True, arguments=arguments)
    assert ids_of(sink, "trainer", "beginning") == ["a", "b", "c"]
    assert ids_of(sink, "trainer", "beginning") == []
    sink.close()


def test_a_killed_reader_gives_back_all_but_what_it_used(project: Project, url: str) -> None:
    project.environ["AGENTPIPE_SINK"] = url
    sink = open_sink(Settings(sink=url))
    sink.follow("trainer", "now").close()
    sink.publish(records(*map(str, range(50))))
    command = [sys.executable, "-m", "agentpipe", "tail", "--group", "trainer", "--json"]
    process = subprocess.Popen(command, env=project.environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = [orjson.loads(process.stdout.readline())["task_id"] for _ in range(10)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    seen += [orjson.loads(line)["task_id"] for line in rest.splitlines()]
    again = ids_of(sink, "trainer")
    assert set(seen) | set(again) == set(map(str, range(50)))
    assert len(set(seen) & set(again)) <= 1
    sink.close()


def test_results_outlive_a_server_that_is_killed(own_server: OwnServer, topic: str) -> None:
    server = own_server(RabbitServer)
    sink = open_sink(Settings(sink=f"{server.url}?topic={topic}"))
    reader = sink.follow("trainer", "now")
    sink.publish(records("a", "b"))
    assert len(reader.poll(2, 10)) >= 1
    server.kill()
    with pytest.raises(Unreachable):
        sink.publish(records("lost"))
    with pytest.raises(Unreachable):
        reader.poll(1, 0)
    server.start()
    sink.publish(records("c"))
    with Stream(reader, timeout_s=1) as stream:
        assert sorted(result.task_id for result in stream) == ["a", "b", "c"]
    sink.close()


def test_a_queue_that_was_deleted_is_made_again(sink: Sink, url: str, topic: str) -> None:
    with bare(url) as channel:
        channel.queue_delete(topic)
        channel.exchange_delete(topic)

    def is_taken() -> bool:
        try:
            sink.publish(records("a"))
        except Unreachable:
            return False
        return True

    wait_until(is_taken, 20, "results are taken again")
    assert ids_of(sink, topic, "beginning") == ["a"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("guest:guest@", "guest:wrong77@", "user or password"),
        ("/%2F", "/nowhere", "vhost"),
    ],
)
def test_what_the_server_refuses_is_told_in_one_line(
    url: str, before: str, after: str, said: str
) -> None:
    with pytest.raises(Unreachable, match=said) as told:
        open_sink(Settings(sink=url.replace(before, after)))
    assert "wrong77" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("rest", ["stream=maybe", "topc=x", f"topic={'x' * 300}"])
def test_a_wrong_url_is_the_users_mistake(rabbitmq_server: RabbitServer, rest: str) -> None:
    with pytest.raises(ConfigError):
        open_sink(Settings(sink=f"{rabbitmq_server.url}?{rest}"))
