"""Each test has a scratch project of its own.

Its tasks are in SQLite; where the test is marked, in each broker in turn; and where it asks for
a ``server`` that it may stop, kill and break, in that.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer
from tests.integration.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers.server import Server
    from tests.servers import OwnServer


def _sqlite(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"sqlite:///{folder}/store/broker.db"


def _shared(fixture: str) -> Callable[[pytest.FixtureRequest, Path], str]:
    """On a server that all tests share, under names of its own."""

    def make(request: pytest.FixtureRequest, _: Path) -> str:
        return f"{request.getfixturevalue(fixture).url}?prefix=test-{uuid.uuid4().hex[:8]}"

    return make


BROKERS = {
    "sqlite": _sqlite,
    "redis": _shared("redis_server"),
    "rabbitmq": _shared("rabbitmq_server"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_broker: a promise, so it is tested on each of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.definition.get_closest_marker("every_broker")
    if every and "broker_url" in metafunc.fixturenames:
        metafunc.parametrize("broker_url", BROKERS, indirect=True)


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest, own_server: OwnServer) -> Server:
    """A server of the test's own."""
    if request.param == "redis":
        return own_server(RedisServer, settings={"appendfsync": "always"})
    return own_server(RabbitServer)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where tasks wait."""
    if "server" in request.fixturenames:
        own: Server = request.getfixturevalue("server")
        return own.url
    return BROKERS[getattr(request, "param", "sqlite")](request, tmp_path)


@pytest.fixture
def sink_url(tmp_path: Path) -> str:
    """Where results go; one day a parameter."""
    return f"sqlite:///{tmp_path}/stream/results.db"


@pytest.fixture
def project(tmp_path: Path, broker_url: str, sink_url: str) -> Iterator[Project]:
    """A scratch project; whatever was started in it is killed at the end."""
    made = Project(tmp_path, broker_url, sink_url)
    try:
        yield made
    finally:
        made.show_logs()
        made.close()
