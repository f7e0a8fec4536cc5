"""The URLs of sinks, parsed without a server."""

from __future__ import annotations

import pytest

from agentpipe.connections.amqp.address import server_of
from agentpipe.connections.url import Url
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import refuse_invalid
from agentpipe.sinks.kafka.address import KafkaAddress
from agentpipe.sinks.rabbitmq.topic import PARAMETERS, Topic


def test_a_kafka_url_is_taken_apart() -> None:
    address = KafkaAddress.parse(
        "kafka://ann:p%40ss@one:1234,[::1]/my.topic?partitions=3&replication=2"
        "&compression=none&max_bytes=5000&recall=0&session_s=30&sasl=SCRAM-SHA-256&tls=yes"
    )
    assert address.servers == ("one:1234", "[::1]:9092")
    assert (address.topic, address.partitions, address.replication) == ("my.topic", 3, 2)
    assert (address.compression, address.max_bytes) == (None, 5000)
    assert (address.recall, address.session_s) == (0, 30)
    assert address.client["security_protocol"] == "SASL_SSL"
    assert address.client["sasl_mechanism"] == "SCRAM-SHA-256"
    assert address.client["sasl_plain_password"] == "p@ss"
    assert "p%40ss" not in address.shown


def test_what_a_kafka_url_leaves_out_is_the_usual() -> None:
    address = KafkaAddress.parse("kafka://")
    assert (address.servers, address.topic) == (("localhost:9092",), "agent-task-mq")
    assert (address.partitions, address.replication, address.compression) == (8, -1, "gzip")
    assert address.client["security_protocol"] == "PLAINTEXT"
    assert not address.has_login


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("h/t?partition=3", "partitions"),
        ("h/t?partitions=0", "at least 1"),
        ("h/t?partitions=many", "integer"),
        ("h/t?compression=zip", "gzip"),
        ("h/t?tls=maybe", "no, yes"),
        ("h/t?sasl=PLAIN", "needs a user"),
        ("h/t?cafile=/no/such/file", "certificates"),
        ("h:0/t", "host:port"),
        ("h:99999/t", "host:port"),
        ("h:x/t", "host:port"),
        ("a,,b/t", "host:port"),
        ("h/a%20b", "invalid topic"),
        ("h/..", "invalid topic"),
        ("h/t?x", "x"),
        ("h/t?proxy=", "proxy is empty"),
        ("h/t?partitions=", "partitions is empty"),
    ],
)
def test_a_wrong_kafka_url_is_told_without_its_password(rest: str, said: str) -> None:
    login = "" if "sasl" in rest else "ann:s3cret@"
    with pytest.raises(ConfigError, match=said) as told:
        KafkaAddress.parse(f"kafka://{login}{rest}")
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://h:99999/t",
        "kafka://h/t?acks=5",
        "amqp://h:99999",
        "amqp://h/?bogus=1",
        "amqp://h/?topic=amq.x",
        "sqlite:///a.db?sync=no",
        "sqlite://a.db",
        f"sqlite:///{__file__}",
    ],
)
def test_a_worker_refuses_a_wrong_url_before_it_runs_tasks(url: str) -> None:
    with pytest.raises(ConfigError):
        refuse_invalid(Settings(sink=url))


@pytest.mark.parametrize(
    "url",
    [
        "kafka://h.invalid:1/t",
        "amqp://h.invalid",
        "sqlite:///no/a.db",
        f"sqlite:///{__file__}/a.db",
    ],
)
def test_that_needs_no_server_and_no_file(url: str) -> None:
    refuse_invalid(Settings(sink=url))


def topic_of(url: str) -> Topic:
    return Topic.of(Url.parse(url, PARAMETERS))


def test_a_rabbitmq_url_is_taken_apart() -> None:
    url = "amqps://ann:p%40ss@host/%2Fteam?topic=mine&stream=yes"
    topic, server = topic_of(url), server_of(Url.parse(url, PARAMETERS))
    assert (topic.name, topic.has_stream) == ("mine", True)
    assert (server.port, server.vhost, server.user) == (5671, "/team", "ann")
    assert server.tls is not None
    plain = topic_of("amqp://")
    assert (plain.name, plain.has_stream) == ("agent-task-mq", False)


def test_a_group_has_a_queue_of_its_own_but_the_seeds_has_the_topics() -> None:
    topic = topic_of("amqp://h/?topic=mine")
    assert topic.group("stream").name == "mine.group.stream"
    assert topic.group("mine") == topic.group("mcpuniverse-group") == topic.queue
    assert topic.queue.arguments == {}
    for group in ("", "x" * 130):
        with pytest.raises(ConfigError, match="1 to 120"):
            topic.group(group)


def read_whole(text: str) -> None:
    url = Url.parse(text, PARAMETERS)
    server_of(url)
    Topic.of(url)


@pytest.mark.parametrize(
    "rest", ["?topc=a", "?stream=maybe", ":port/", f"?topic={'x' * 130}", "?topic=amq.x"]
)
def test_a_wrong_rabbitmq_url_is_told_without_its_password(rest: str) -> None:
    with pytest.raises(ConfigError) as told:
        read_whole(f"amqp://ann:s3cret@host{rest}")
    assert "s3cret" not in str(told.value)
