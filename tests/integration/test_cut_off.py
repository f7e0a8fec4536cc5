"""Workers that cannot reach their broker log it, and stop runs whose tasks others can claim."""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from tests.integration.proxy import Proxy
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.server import Server
    from tests.integration.project import Fleet, Project

LEASE_S = 6.0
# Time to notice the outage, to interrupt the run, and for the run to end.
MARGIN_S = 3.0
SILENT = "the broker has not answered for"
OVER = "the lease is over, and other workers may have the tasks: 1 runs end here"


@contextmanager
def _two_workers(
    project: Project, server: Server, lease_s: float, question: str
) -> Iterator[tuple[Proxy, Fleet, Fleet]]:
    """Two workers: the task runs on the first, which reaches its broker through the proxy."""
    project.environ["AGENTPIPE_LEASE_S"] = f"{lease_s:g}"
    project.collection()
    with Proxy(server.port, odds=0.0) as proxy:
        url = server.url.replace(f":{server.port}", f":{proxy.port}")
        cut = project.work("--processes", "1", env={"AGENTPIPE_BROKER": url}).ready(1)
        project.send(question)
        wait_until(lambda: project.journal("beat"), 30, "it runs")
        yield proxy, cut, project.work("--processes", "1").ready(2)


def _times(project: Project, event: str) -> list[float]:
    return [entry["monotonic"] for entry in project.journal(event)]


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis", "rabbitmq"], indirect=True)
def test_a_worker_that_is_cut_off_runs_nothing_beside_the_others(
    project: Project, server: Server
) -> None:
    with _two_workers(project, server, LEASE_S, "beat-at-first 300") as (proxy, cut, other):
        proxy.cut()
        wait_until(lambda: SILENT in cut.log, 30, "the worker says so")
        assert OVER not in cut.log
        project.until(delivered=1)
        wait_until(lambda: OVER in cut.log, 30, "its lease is over")
        again = _times(project, "started")[1]
        assert _times(project, "beat")[-1] < again + MARGIN_S
        proxy.mend()
        wait_until(lambda: "the broker answers again" in cut.log, 60, "it is back")
        assert other.stop() == 0
        project.send({"task_id": "next", "question": "echo"})
        project.until(delivered=2)
        assert cut.stop() == 0
    assert {result["outcome"] for result in project.results()} == {"ok"}


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis", "rabbitmq"], indirect=True)
def test_a_worker_whose_connections_are_refused_runs_nothing_beside_the_others(
    project: Project, server: Server
) -> None:
    """Regression: RabbitMQ redelivers its tasks at once, while its own lease still holds."""
    with _two_workers(project, server, 2 * LEASE_S, "beat-at-first 300") as (proxy, cut, other):
        proxy.refuse()
        wait_until(lambda: OVER in cut.log, 30, "its lease is over")
        project.until(delivered=1)
        again = _times(project, "started")[1]
        assert _times(project, "beat")[-1] < again + MARGIN_S
        assert other.stop() == 0
        assert cut.stop() == 0
    assert {result["outcome"] for result in project.results()} == {"ok"}


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis"], indirect=True)
@pytest.mark.parametrize("stops", [True, False])
def test_a_server_that_is_frozen_for_longer_than_the_lease_costs_one_uncounted_run(
    project: Project, server: Server, *, stops: bool
) -> None:
    """With ``stops`` the server is killed and restarts; a grace period then renews the lease."""
    project.environ["AGENTPIPE_LEASE_S"] = f"{LEASE_S:g}"
    project.collection()
    fleet = project.work("--processes", "1").ready(1)
    project.send("beat-at-first 300")
    wait_until(lambda: project.journal("beat"), 30, "it runs")
    with redis.Redis(port=server.port) as client:
        pid = client.info()["process_id"]
    server.kill() if stops else os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: OVER in fleet.log, 60, "its lease is over")
    last = _times(project, "beat")[-1]
    server.start() if stops else os.kill(pid, signal.SIGCONT)
    project.until(delivered=1)
    assert fleet.stop() == 0
    assert fleet.log.count("the broker answers again") == 1
    first, again = _times(project, "started")
    assert first < last < again
    (result,) = project.results()
    assert result["outcome"] == "ok"
    # A server that was only stopped continues to count leases, and can expire them first.
    assert result["attempt"] <= (1 if stops else 2)


@contextmanager
def _locked(project: Project) -> Iterator[None]:
    """Hold the embedded store's lock, as a frozen process would."""
    with (project.folder / "store" / "broker.db-lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.long
def test_a_run_goes_on_where_the_store_is_away_for_all(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "2"
    project.collection()
    fleet = project.work("--processes", "1").ready(1)
    project.send("beat-at-first 10")
    wait_until(lambda: project.journal("beat"), 30, "it runs")
    with _locked(project):
        wait_until(lambda: "the worker waits for it" in fleet.log, 30, "the worker says so")
        wait_until(lambda: project.journal("finished"), 60, "it runs to its end")
    project.until(delivered=1)
    assert fleet.stop() == 0
    assert "the broker answers again" in fleet.log
    assert OVER not in fleet.log
    assert len(project.journal("started")) == 1
    assert [result["outcome"] for result in project.results()] == ["ok"]


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis", "rabbitmq"], indirect=True)
def test_a_run_goes_on_while_its_lease_holds(project: Project, server: Server) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "60"
    project.collection()
    with Proxy(server.port, odds=0.0) as proxy:
        url = server.url.replace(f":{server.port}", f":{proxy.port}")
        fleet = project.work("--processes", "1", env={"AGENTPIPE_BROKER": url}).ready(1)
        project.send("beat-at-first 8")
        wait_until(lambda: project.journal("beat"), 30, "it runs")
        proxy.cut()
        wait_until(lambda: SILENT in fleet.log, 30, "the worker says so")
        proxy.mend()
        wait_until(lambda: "the broker answers again" in fleet.log, 30, "it says that, too")
        project.until(delivered=1)
        assert fleet.stop() == 0
    assert OVER not in fleet.log
    assert len(project.journal("started")) == 1
    assert [(it["outcome"], it["attempt"]) for it in project.results()] == [("ok", 1)]


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis", "rabbitmq"], indirect=True)
def test_a_run_goes_on_where_its_worker_is_connected_again_within_the_lease(
    project: Project, server: Server
) -> None:
    """Regression: on RabbitMQ another worker had taken over the agent, and ran its task again."""
    with _two_workers(project, server, 60, "beat-at-first 15") as (proxy, cut, other):
        proxy.refuse()
        wait_until(lambda: "the broker does not answer" in cut.log, 30, "the worker says so")
        proxy.accept()
        project.until(delivered=1)
        assert other.stop() == 0
        assert cut.stop() == 0
    assert len(project.journal("started")) == 1
    assert [(it["outcome"], it["attempt"]) for it in project.results()] == [("ok", 1)]
