"""MCP-Universe's variables configure broker and sink, alone or beside our own URLs."""

from __future__ import annotations

import pytest

from agentpipe.errors import ConfigError
from agentpipe.settings import Settings, embedded_url


@pytest.mark.parametrize(
    ("environ", "broker"),
    [
        ({"REDIS_HOST": "r"}, "redis://r:6379/0"),
        ({"REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "7000"}, "redis://[::1]:7000/0"),
        ({"REDIS_HOST": "", "REDIS_PORT": ""}, embedded_url("broker.db")),
    ],
)
def test_redis_is_the_broker(environ: dict[str, str], broker: str) -> None:
    assert Settings.from_env(environ).broker == broker


@pytest.mark.parametrize(
    ("environ", "mq_type", "sink"),
    [
        ({"KAFKA_HOST": "k"}, None, "kafka://k:9092/agent-task-mq"),
        ({"KAFKA_PORT": "7000", "MQ_TOPIC": "t"}, None, "kafka://localhost:7000/t"),
        ({"MQ_TOPIC": "t"}, None, "kafka://localhost:9092/t"),
        ({"MQ_TOPIC": "t"}, "rabbitmq", "amqp://localhost:5672/?topic=t"),
        ({"RABBITMQ_HOST": "q"}, None, "amqp://q:5672/?topic=agent-task-mq"),
        (
            {"RABBITMQ_HOST": "q", "KAFKA_HOST": "k"},
            "rabbitmq",
            "amqp://q:5672/?topic=agent-task-mq",
        ),
        ({"RABBITMQ_HOST": "q", "KAFKA_HOST": "k"}, "kafka", "kafka://k:9092/agent-task-mq"),
        ({"REDIS_HOST": "r"}, None, embedded_url("results.db")),
    ],
)
def test_kafka_or_rabbitmq_is_the_sink(
    environ: dict[str, str], mq_type: str | None, sink: str
) -> None:
    assert Settings.from_env(environ, mq_type).sink == sink


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_HOST": "r", "AGENTPIPE_BROKER": "redis://r:6379/3?prefix=x"},
        {"REDIS_HOST": "localhost", "AGENTPIPE_BROKER": "rediss://u:p@127.0.0.1"},
        {"KAFKA_HOST": "k", "AGENTPIPE_SINK": "kafka://k/agent-task-mq?partitions=2"},
        {"KAFKA_HOST": "k", "MQ_TOPIC": "t", "AGENTPIPE_SINK": "kafka://k:9092/t"},
        {"KAFKA_HOST": "k", "RABBITMQ_HOST": "q", "AGENTPIPE_SINK": "amqp://u:p@q:5672/v"},
        {"MQ_TOPIC": "t", "AGENTPIPE_SINK": "amqp://q/?topic=t"},
    ],
)
def test_a_url_that_names_the_same_server_is_no_clash(environ: dict[str, str]) -> None:
    settings = Settings.from_env(environ)
    ours = {environ.get("AGENTPIPE_BROKER"), environ.get("AGENTPIPE_SINK")} - {None}
    assert ours <= {settings.broker, settings.sink}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"REDIS_HOST": "r", "AGENTPIPE_BROKER": "redis://s"}, ["REDIS_HOST", "AGENTPIPE_BROKER"]),
        (
            {"REDIS_PORT": "7", "AGENTPIPE_BROKER": "sqlite:///x"},
            ["REDIS_PORT", "AGENTPIPE_BROKER"],
        ),
        ({"KAFKA_HOST": "k", "AGENTPIPE_SINK": "kafka://l"}, ["KAFKA_HOST", "AGENTPIPE_SINK"]),
        (
            {"RABBITMQ_HOST": "k", "AGENTPIPE_SINK": "kafka://k"},
            ["RABBITMQ_HOST", "AGENTPIPE_SINK"],
        ),
        ({"MQ_TOPIC": "t", "AGENTPIPE_SINK": "kafka://k/u"}, ["MQ_TOPIC", "AGENTPIPE_SINK"]),
        ({"MQ_TOPIC": "t", "AGENTPIPE_SINK": "sqlite:///x"}, ["MQ_TOPIC", "AGENTPIPE_SINK"]),
        ({"KAFKA_HOST": "k", "RABBITMQ_HOST": "q"}, ["KAFKA_HOST", "RABBITMQ_HOST"]),
    ],
)
def test_a_clash_is_an_error_that_names_both(environ: dict[str, str], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(environ)
    assert all(name in str(caught.value) for name in named)


def test_a_clash_shows_no_password() -> None:
    environ = {"REDIS_HOST": "r", "AGENTPIPE_BROKER": "redis://u:hunter22@s"}
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(environ)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "1e3"])
def test_what_is_no_port_is_told_by_its_variable(port: str) -> None:
    with pytest.raises(ConfigError, match="KAFKA_PORT"):
        Settings.from_env({"KAFKA_PORT": port})


def test_what_kubernetes_puts_there_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="enableServiceLinks"):
        Settings.from_env({"REDIS_PORT": "tcp://10.0.0.1:6379"})


def test_an_unknown_mq_type_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown mq_type .nats.: use kafka or rabbitmq"):
        Settings.from_env({}, "nats")
