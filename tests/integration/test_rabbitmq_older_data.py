"""A RabbitMQ whose data are an older copy: workers and server reconcile."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from brokers.server_rabbitmq import RabbitServer
from tests.integration.waiter import until_started, waiter
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project
    from tests.servers import OwnServer

pytestmark = [pytest.mark.server, pytest.mark.long]


@pytest.fixture
def server(own_server: OwnServer) -> RabbitServer:
    return own_server(RabbitServer)


@pytest.fixture
def broker_url(server: RabbitServer) -> str:
    return server.url


@pytest.fixture
def project(project: Project) -> Project:
    project.environ["AGENTPIPE_LEASE_S"] = "60"  # The server restarts within it.
    project.agent("waiter:Waiter", waiter(0))
    return project


def test_what_older_data_bring_back_is_answered_by_the_same_worker(
    project: Project, server: RabbitServer
) -> None:
    project.collection(number=1, concurrency=1)
    fleet = project.work("--processes", "1", "--slots", "4").ready(1)
    project.write("now", "")
    project.send({"task_id": "first", "question": "now"})
    project.until(delivered=1)
    project.send({"task_id": "held", "question": "a"}, {"task_id": "later", "question": "b"})
    until_started(project, "held")
    server.kill()
    _copy(server, "data", "older")
    server.start()
    project.write("a", "")
    project.until(delivered=2, running=1)
    until_started(project, "later")
    pids = fleet.pids
    _go_back(server)
    project.until(running=1)
    project.write("b", "")
    project.until(delivered=3, running=0, waiting=0, outbox=0)
    assert fleet.pids == pids
    fleet.stop()
    results = project.by_id()
    assert {name: each["outcome"] for name, each in results.items()} == dict.fromkeys(
        ("first", "held", "later"), "ok"
    )
    assert results["later"]["attempt"] == 1


def test_agents_that_older_data_do_not_know_are_made_again(
    project: Project, server: RabbitServer
) -> None:
    server.kill()
    _copy(server, "data", "older")
    server.start()
    project.collection(number=2, concurrency=1)
    fleet = project.work("--processes", "1", "--slots", "4").ready(1)
    project.write("now", "")
    project.send({"task_id": "first", "question": "now"})
    project.until(delivered=1)
    project.send({"task_id": "unknown", "question": "a"})
    until_started(project, "unknown")
    pids = fleet.pids
    _go_back(server)
    wait_until(lambda: len(project.journal("ended")) == 2, 60, "the run ends")
    project.send(*[{"task_id": f"new-{number}", "question": "now"} for number in range(4)])
    project.until(delivered=5, running=0, waiting=0, outbox=0)
    assert fleet.pids == pids
    fleet.stop()


def _copy(server: RabbitServer, source: str, target: str) -> None:
    shutil.copytree(server.folder / source, server.folder / target)


def _go_back(server: RabbitServer) -> None:
    server.kill()
    shutil.rmtree(server.folder / "data")
    _copy(server, "older", "data")
    server.start()
