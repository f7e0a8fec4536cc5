"""What is RabbitMQ's alone: runs that outlive a connection, bounds that change, what it tells."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from brokers.server_rabbitmq import RabbitServer
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.fixture
def broker_url(rabbitmq_server: RabbitServer, request: pytest.FixtureRequest) -> str:
    return f"{rabbitmq_server.url}?prefix=test-{abs(hash(request.node.nodeid))}"


class TestOnItsOwnServer:
    @pytest.fixture
    def server(self, own_server: object) -> RabbitServer:
        return own_server(RabbitServer)  # type: ignore[operator,no-any-return]

    @pytest.fixture
    def broker_url(self, server: RabbitServer) -> str:
        return server.url

    def test_what_runs_goes_on_over_a_restart_of_the_server(
        self, project: Project, server: RabbitServer
    ) -> None:
        project.environ["AGENTPIPE_LEASE_S"] = "30"
        project.collection(number=2, concurrency=2)
        fleet = project.work("--processes", "2").ready(2)
        project.send(*["sleep 14"] * 4)
        wait_until(lambda: len(project.journal("started")) == 4, 30, "all run")
        server.stop()
        server.start()
        wait_until(lambda: len(project.results()) == 4, 60, "all are answered")
        assert fleet.stop() == 0
        runs = Counter(entry["task_id"] for entry in project.journal("started"))
        assert set(runs.values()) == {1}
        assert {result["attempt"] for result in project.results()} == {1}
