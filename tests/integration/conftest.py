"""The scratch project of each test.

The broker is SQLite. A test marked ``every_broker`` runs on each broker. A test that uses the
fixture ``server`` gets its own server, which it can stop and kill.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import redis

from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer
from tests.integration.command_forks import CommandForks
from tests.integration.llm_bench import Bench
from tests.integration.plain import Plain
from tests.integration.project import Project
from tests.integration.rabbit_rig import rig_on, until_set
from tests.stores import open_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.sinks.base import Sink
    from brokers.server import Server
    from tests.integration.rabbit_rig import Rig
    from tests.servers import OwnServer
    from tests.stores import AnyStore


def _sqlite(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"sqlite:///{folder}/store/broker.db"


def _shared(fixture: str) -> Callable[[pytest.FixtureRequest, Path], str]:
    """A URL maker for a server shared by all tests, with a prefix for each test."""

    def make(request: pytest.FixtureRequest, _: Path) -> str:
        return _prefixed(request.getfixturevalue(fixture))

    return make


def _prefixed(server: Server) -> str:
    return f"{server.url}?prefix=test-{uuid.uuid4().hex[:8]}"


BROKERS = {
    "sqlite": _sqlite,
    "redis": _shared("redis_server"),
    "rabbitmq": _shared("rabbitmq_server"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "every_broker(long=(), but=()): runs on each broker `but` some, in the long tier on `long`",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("process")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.definition.get_closest_marker("every_broker")
    if every and "broker_url" in metafunc.fixturenames:
        long, but = every.kwargs.get("long", ()), every.kwargs.get("but", ())
        names = [name for name in BROKERS if name not in but]
        params = [pytest.param(name, marks=[pytest.mark.long] * (name in long)) for name in names]
        metafunc.parametrize("broker_url", params, indirect=True)


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest, own_server: OwnServer) -> Server:
    """A server for this test alone."""
    if request.param == "redis":
        return own_server(RedisServer, settings={"appendfsync": "always"})
    return own_server(RabbitServer)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of the test's broker."""
    if "server" in request.fixturenames:
        own: Server = request.getfixturevalue("server")
        return own.url
    return BROKERS[getattr(request, "param", "sqlite")](request, tmp_path)


@pytest.fixture
def rabbit_url(rabbitmq_server: RabbitServer) -> str:
    """The shared RabbitMQ, with a prefix for the test."""
    return _prefixed(rabbitmq_server)


@pytest.fixture
def rig(rabbit_url: str, rabbitmq_server: RabbitServer) -> Iterator[Rig]:
    """A worker on RabbitMQ whose connection can be cut."""
    with rig_on(rabbit_url, rabbitmq_server) as rig:
        yield rig


@pytest.fixture
def sink_url(tmp_path: Path) -> str:
    """The URL of the test's sink."""
    return f"sqlite:///{tmp_path}/stream/results.db"


@pytest.fixture
def plain(tmp_path: Path, broker_url: str) -> Iterator[Plain]:
    """A worker for plain Dramatiq actors inside the test."""
    made = Plain(tmp_path, broker_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def command_forks() -> Iterator[CommandForks]:
    """The commands of all short tests; each in the long tier starts a process for every command."""
    with closing(CommandForks()) as forks:
        yield forks


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    broker_url: str,
    sink_url: str,
    command_forks: CommandForks,
) -> Iterator[Project]:
    """A scratch project; its processes are killed at the end."""
    made = Project(tmp_path, broker_url, sink_url)
    if request.node.get_closest_marker("long") is None:
        made.forks = command_forks
    try:
        yield made
    finally:
        made.show_logs()
        made.close()


@pytest.fixture
def prefix() -> str:
    """A prefix on the shared Redis for this test alone."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def store(redis_server: RedisServer, prefix: str) -> Iterator[AnyStore]:
    """The store on the shared Redis with the test's prefix."""
    with closing(open_any(Settings(broker=f"{redis_server.url}?prefix={prefix}"))) as opened:
        yield opened


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the shared Redis whose replies are text."""
    with closing(redis.Redis.from_url(redis_server.url, decode_responses=True)) as client:
        yield client


@pytest.fixture
def topic() -> str:
    """A topic for this test alone."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def sink(url: str) -> Iterator[Sink]:
    """The sink that the module's fixture ``url`` names."""
    opened = open_sink(Settings(sink=url))
    yield opened
    opened.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in a separate folder."""
    return Bench(tmp_path)


@pytest.fixture
def rabbitmq_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that must be set before RabbitMQ workers of this process publish results."""
    may_go_on = threading.Event()
    publish = WorkerChannel.publish

    async def slowly(channel: WorkerChannel, messages: Any) -> None:
        await until_set(may_go_on)
        await publish(channel, messages)

    monkeypatch.setattr(WorkerChannel, "publish", slowly)
    return may_go_on
