"""`agentpipe drain`: a worker claims no more tasks, finishes its runs, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

PATIENCE_S = 60.0


def workers(project: Project) -> dict[str, dict[str, Any]]:
    return {worker["worker"]: worker for worker in project.stats()["workers"] if worker["slots"]}


def started(project: Project) -> int:
    return len(project.journal("started"))


def send(project: Project, *questions: str) -> None:
    """Send tasks with random ids."""
    named = [{"task_id": uuid.uuid4().hex, "question": it} for it in questions]
    project.send(*named)


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_drained_worker_finishes_its_run_takes_nothing_new_and_is_not_replaced(
    project: Project,
) -> None:
    project.collection("toys", number=2)
    fleet = project.work("--processes", "2", "--slots", "1").ready(2)
    send(project, "wait-for-file end", "wait-for-file end")
    wait_until(lambda: started(project) == 2, PATIENCE_S, "both have begun")
    drained, other = sorted(workers(project))
    done = project.ok("drain", drained, "--json")
    assert done.json == {"workers": [drained], "unheard": [], "left": []}
    assert {name: it["draining"] for name, it in workers(project).items()} == {
        drained: True,
        other: False,
    }
    assert "draining" in project.ok("status").out
    assert "draining" in project.ok("top", "--once").out
    send(project, *["echo"] * 4)
    (project.folder / "end").touch()
    project.until(delivered=6)
    wait_until(lambda: set(workers(project)) == {other}, PATIENCE_S, "one is left")
    results = project.by_id().values()
    assert {(result["outcome"], result["attempt"]) for result in results} == {("ok", 1)}
    assert "died" not in fleet.log
    done = project.ok("drain", "--here", "--wait", "--json")
    assert done.json == {"workers": [other], "unheard": [], "left": []}
    assert fleet.end() == 0
    send(project, "echo afterwards")
    assert project.burst("--processes", "1").code == 0
    assert len(project.by_id()) == 7


@pytest.mark.every_broker(long=("sqlite", "redis", "rabbitmq"))
def test_a_worker_that_is_killed_while_it_drains_is_not_replaced_and_loses_nothing(
    project: Project,
) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "600"
    project.collection("toys", number=2)
    fleet = project.work("--processes", "1", "--slots", "2").ready(1)
    project.send("sleep-at-first 60", "sleep-at-first 60")
    wait_until(lambda: started(project) == 2, PATIENCE_S, "both have begun")
    project.ok("drain", "--all")
    wait_until(lambda: "drains" in fleet.log, PATIENCE_S, "the worker knows")
    (pid,) = fleet.pids
    os.kill(pid, signal.SIGKILL)
    assert fleet.end() == 0
    project.until(waiting=2, running=0)
    assert project.burst("--processes", "1").code == 0
    results = project.by_id().values()
    assert {(result["outcome"], result["attempt"]) for result in results} == {("ok", 2)}


@pytest.mark.long
def test_a_signal_ends_a_draining_worker_within_its_grace(project: Project) -> None:
    project.environ["AGENTPIPE_GRACE_S"] = "0.5"
    project.collection("toys")
    fleet = project.work("--processes", "1").ready(1)
    project.send("sleep-at-first 60")
    wait_until(lambda: started(project) == 1, PATIENCE_S, "it has begun")
    done = project.run("drain", "--all", "--wait", "--timeout", "0.2", "--json")
    assert (done.code, len(done.json["left"])) == (5, 1)
    assert "not ended within 0.2 s" in done.err
    assert fleet.stop() == 0
    project.until(waiting=1, running=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "no worker 'nobody' on this broker"),
        ([], "give names of workers, or --here, or --all"),
        (["--all", "--here"], "give names of workers, or --here, or --all"),
        (["--all", "--timeout", "1"], "add --wait"),
        (["--all", "--wait", "--timeout", "nan"], "--timeout"),
        (["--all", "--wait", "--timeout", "-1"], "--timeout"),
    ],
)
def test_what_cannot_be_drained_is_said(project: Project, arguments: list[str], said: str) -> None:
    project.collection("toys")
    project.ok("send", "toys", "echo")
    done = project.run("drain", *arguments)
    assert (done.code, said in done.err) == (2, True), done
    assert project.ok("drain", "--all").out == "no worker to drain\n"


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="a worker finds its siblings in /proc")
def test_dramatiq_ends_once_all_of_its_workers_are_drained(project: Project) -> None:
    project.collection("toys", number=2)
    command = [sys.executable, "-m", "dramatiq", "agentpipe.actors", "--processes", "2"]
    with subprocess.Popen(
        command, env=project.environ, cwd=project.folder, stderr=subprocess.DEVNULL
    ) as alone:
        try:
            wait_until(lambda: len(workers(project)) == 2, PATIENCE_S, "both serve")
            first, second = workers(project)
            send(project, "wait-for-file end", "wait-for-file end")
            wait_until(lambda: started(project) == 2, PATIENCE_S, "both have begun")
            project.ok("drain", first)
            (project.folder / "end").touch()
            wait_until(lambda: list(workers(project)) == [second], PATIENCE_S, "it has left")
            send(project, "echo", "echo")
            project.until(delivered=4)
            assert alone.poll() is None
            project.ok("drain", second)
            assert alone.wait(PATIENCE_S) == 0
        finally:
            alone.kill()
    results = project.by_id().values()
    assert {(result["outcome"], result["attempt"]) for result in results} == {("ok", 1)}
