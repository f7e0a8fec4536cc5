"""``agentpipe metrics`` on real stores: what a scrape returns with workers and broker outages."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from agentpipe.cli.exit_codes import INTERRUPTED, OK
from brokers.ports import free_port
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.server import Server
    from tests.integration.project import Project

pytestmark = pytest.mark.process
OPEN = "application/openmetrics-text; version=1.0.0"
READERS: dict[str, Any] = {"text/plain": read_plain, OPEN: read_open}


@contextmanager
def exporter(project: Project, *args: str) -> Iterator[str]:
    """The address of a running exporter."""
    process = project.start("metrics", "--port", "0", *args)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().rpartition(" ")[2].strip()
    finally:
        process.terminate()
        assert process.wait(60) == OK


def test_ctrl_c_ends_it(project: Project) -> None:
    process = project.start("metrics", "--port", "0")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == INTERRUPTED


def fetched(url: str, accept: str = "text/plain") -> str:
    with urlopen(Request(url, headers={"Accept": accept}), timeout=30) as answer:
        return bytes(answer.read()).decode()


def scraped(url: str, accept: str = "text/plain") -> dict[str, float]:
    families = READERS[accept](fetched(url, accept))
    return {
        f"{it.name}{sorted(it.labels.values())}": it.value
        for each in families
        for it in each.samples
    }


@pytest.mark.long
def test_counters_go_on_over_workers_and_exporters(project: Project) -> None:
    project.collection(number=2, name="crew")
    project.send("echo yes", "raise boom", to="crew")
    project.burst("--processes", "1")
    with exporter(project) as url:
        first = scraped(url)
    project.send({"task_id": "later", "question": "echo yes"}, to="crew")
    project.burst("--processes", "1")
    with exporter(project) as url:
        second = scraped(url)
        assert {name: it for name, it in scraped(url, OPEN).items() if "_total" in name} == {
            name: it for name, it in second.items() if "_total" in name
        }
        assert "/metrics" in fetched(url.removesuffix("metrics"))
        with pytest.raises(HTTPError, match="404"):
            fetched(f"{url}/other")
    name = "agentpipe_tasks_total['crew', 'ok']"
    assert (first["agentpipe_up[]"], first[name], second[name]) == (1, 1, 2)
    assert first["agentpipe_tasks_total['agent_error', 'crew']"] == 1
    assert second["agentpipe_run_duration_seconds_count['crew']"] == 3
    assert second["dramatiq_messages_total['crew', 'crew']"] == 3
    assert second["agentpipe_tasks['crew', 'waiting']"] == 0


@pytest.mark.long
@pytest.mark.long
@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_on_rabbitmq_counters_rise_over_the_ends_of_workers(project: Project) -> None:
    project.collection(number=2, name="crew")
    ok, failed = (
        "agentpipe_tasks_total['crew', 'ok']",
        "agentpipe_tasks_total['agent_error', 'crew']",
    )
    with exporter(project) as url:
        assert scraped(url)["agentpipe_up[]"] == 1
        first = project.work("--processes", "1").ready(1)
        project.send("echo one", "echo two", "raise boom", to="crew")
        wait_until(lambda: counted(url, ok, failed) == (2, 1), 60, "three tasks are counted")
        assert scraped(url)["agentpipe_run_duration_seconds_count['crew']"] == 3
        assert first.stop() == 0
        assert counted(url, ok, failed) == (2, 1)
        second = project.work("--processes", "1").ready(1)
        project.send("echo three", to="crew")
        wait_until(lambda: counted(url, ok, failed) == (3, 1), 60, "the fourth one, too")
        with exporter(project) as other:  # Earlier increases are not counted.
            assert counted(other, ok, failed) in ((0, 0), (None, None))
        assert second.stop() == 0


def counted(url: str, *names: str) -> tuple[float | None, ...]:
    found = scraped(url)
    return tuple(found.get(name) for name in names)


@pytest.mark.long
@pytest.mark.every_broker(but=("rabbitmq",))
def test_groups_that_ended_are_counted(project: Project) -> None:
    project.collection(number=2, name="crew")
    tasks = project.tasks("echo yes")
    project.ok("send", "crew", "--file", tasks, "--group", "2")
    project.burst("--processes", "1")
    with exporter(project) as url:
        found = scraped(url)
    ended = {it: found[f"agentpipe_groups_total['{it}']"] for it in ("complete", "short")}
    assert ended == {"complete": 0, "short": 1}  # No evaluator scored the members.
    used = {it: found[f"agentpipe_group_members_total['{it}']"] for it in ("counted", "wasted")}
    assert used == {"counted": 0, "wasted": 2}
    assert found["agentpipe_groups_open[]"] == 0


@pytest.mark.parametrize(
    "server", ["redis", pytest.param("rabbitmq", marks=pytest.mark.long)], indirect=True
)
def test_a_broker_that_goes_away_is_a_zero_until_it_is_back(
    project: Project, server: Server
) -> None:
    with exporter(project) as url:
        assert scraped(url)["agentpipe_up[]"] == 1
        server.stop()
        wait_until(lambda: scraped(url) == {"agentpipe_up[]": 0}, 60, "a zero")
        server.start()
        wait_until(lambda: scraped(url)["agentpipe_up[]"] == 1, 60, "a one")


def test_it_starts_while_the_broker_is_away(project: Project) -> None:
    project.environ["AGENTPIPE_BROKER"] = f"redis://:hidden@127.0.0.1:{free_port()}"
    with exporter(project) as url:
        assert scraped(url) == {"agentpipe_up[]": 0}
        assert "hidden" not in fetched(url)


def test_a_port_that_is_taken_is_one_line(project: Project) -> None:
    project.collection()
    project.send("echo yes")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = project.run("metrics", "--port", str(port))
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"port {port}: Address already in use" in done.err


def test_without_the_extra_it_says_how_to_install_it(project: Project) -> None:
    project.collection()
    project.send("echo yes")
    (project.folder / "prometheus_client.py").write_text(
        "raise ModuleNotFoundError('no', name='prometheus_client')"
    )
    done = project.run("metrics", env={"PYTHONPATH": str(project.folder)})
    assert done.code == 1
    assert done.err.startswith("metrics need prometheus-client: ")
    assert sys.executable in done.err
    assert done.err.count("\n") == 1
