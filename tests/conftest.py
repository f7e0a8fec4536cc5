"""Fixtures of real servers, each started on first use; see brokers/README.md."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import Kind, OwnServer, required, started
from tests.shared_servers import ADDRESS, SharedServers, shared_server

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from brokers.server import Server


_MASKING = "agentpipe.core.masking"
SERVERS = pytest.StashKey[SharedServers]()
# Kafka runs only for minutes here: the JVM's second compiler would not pay off.
JVM = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts background jobs with SIGINT ignored, and child processes inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(config.option, "numprocesses", None):  # The pytest-xdist workers ask this process.
        _share_servers(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without garbage collection: modules and tests stay alive in each process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _share_servers(config: pytest.Config) -> None:
    if ADDRESS not in os.environ:
        config.stash[SERVERS] = SharedServers()
        os.environ.update({**JVM, **os.environ, ADDRESS: config.stash[SERVERS].address})


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(SERVERS, None):
        servers.close()


@pytest.fixture(autouse=True)
def _no_secrets_of_another_test() -> Iterator[None]:
    before = _redactor()
    yield
    if _redactor() is not before:
        sys.modules[_MASKING].install(())


def _redactor() -> object:
    """This process's redactor, if agentpipe was imported: some environments lack agentpipe."""
    masking = sys.modules.get(_MASKING)
    return masking.redactor() if masking else None


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Server:
    """A Redis shared by all tests: each uses its own prefix."""
    _share_servers(pytestconfig)
    with required():
        return shared_server("redis")


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Server:
    """A RabbitMQ shared by all tests: each uses its own queues or vhost."""
    _share_servers(pytestconfig)
    with required():
        return shared_server("rabbitmq")


@pytest.fixture(scope="session")
def kafka_server(pytestconfig: pytest.Config) -> Server:
    """A Kafka shared by all tests: each uses its own topic."""
    _share_servers(pytestconfig)
    with required():
        return shared_server("kafka")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    """Start servers that one test can stop and kill; they are removed after it."""
    with ExitStack() as stack:

        def start(kind: type[Kind], **options: Any) -> Kind:
            folder = tmp_path / f"{kind.kind}-{len(list(tmp_path.iterdir()))}"
            server = kind(folder, environ=os.environ, **options)
            stack.callback(server.drop)
            return started(server)

        yield start
