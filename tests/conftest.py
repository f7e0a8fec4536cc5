"""Real servers, each started when the first test asks for it; see brokers/README.md."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from brokers.server_kafka import KafkaServer
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer
from tests.servers import Kind, OwnServer, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that all tests share: each takes a prefix of its own."""
    with started(RedisServer(tmp_path_factory.mktemp("redis"), environ=os.environ)) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ that all tests share: each takes queues or a vhost of its own."""
    folder = tmp_path_factory.mktemp("rabbitmq")
    with started(RabbitServer(folder, environ=os.environ, management=True)) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka that all tests share: each takes a topic of its own."""
    with started(KafkaServer(tmp_path_factory.mktemp("kafka"), environ=os.environ)) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    """Starts servers that the test may stop and kill; they are gone after it."""
    with ExitStack() as stack:

        def start(kind: type[Kind], **options: Any) -> Kind:
            folder = tmp_path / f"{kind.kind}-{len(list(tmp_path.iterdir()))}"
            server = kind(folder, environ=os.environ, **options)
            stack.callback(server.drop)
            return started(server)

        yield start
