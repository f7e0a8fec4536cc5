"""Real servers, each started when the first test asks for it; see brokers/README.md."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.landlord import ADDRESS, Landlord, rented
from tests.servers import Kind, OwnServer, needed, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers.server import Server


LANDLORD = pytest.StashKey[Landlord]()
# Kafka in a test is young: what its compiler spends on code that lives for hours is lost.
JVM = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "numprocesses", None):  # Pytest-xdist's others ask this one.
        _settle_in(config)


def _settle_in(config: pytest.Config) -> None:
    if ADDRESS not in os.environ:
        config.stash[LANDLORD] = Landlord()
        os.environ.update({**JVM, **os.environ, ADDRESS: config.stash[LANDLORD].address})


def pytest_unconfigure(config: pytest.Config) -> None:
    if landlord := config.stash.get(LANDLORD, None):
        landlord.close()


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Server:
    """A Redis that all tests share: each takes a prefix of its own."""
    _settle_in(pytestconfig)
    with needed():
        return rented("redis")


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Server:
    """A RabbitMQ that all tests share: each takes queues or a vhost of its own."""
    _settle_in(pytestconfig)
    with needed():
        return rented("rabbitmq")


@pytest.fixture(scope="session")
def kafka_server(pytestconfig: pytest.Config) -> Server:
    """A Kafka that all tests share: each takes a topic of its own."""
    _settle_in(pytestconfig)
    with needed():
        return rented("kafka")


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
