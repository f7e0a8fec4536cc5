"""A worker that is drained or stopped during its start: exit code 0, and no claims."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

PATIENCE_S = 60.0
# Each process announces its import by a file, and waits for a file named after its kind. `work`
# also imports the agents, to check them.
SLOW = """
import os, pathlib, time
from toys import Toy
kind = "worker" if "AGENTPIPE_LAST_WORD_FILE" in os.environ or "PLAIN" in os.environ else "work"
here = pathlib.Path(__file__).parent
(here / f"{kind}.{os.getpid()}.imports").touch()
while not (here / f"{kind}.may-go").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def slow(project: Project) -> Project:
    """A collection whose agents wait during their import, with two tasks."""
    project.collection("toys")
    project.ok("send", "toys", "--file", project.tasks("echo a", "echo b"))
    project.agent("slow:Toy", SLOW)
    return project


def importing(project: Project, kind: str, number: int = 1) -> None:
    """Wait until ``number`` processes of this kind wait in the import."""
    found = f"{number} of {kind} import"
    wait_until(
        lambda: len(list(project.folder.glob(f"{kind}.*.imports"))) == number, PATIENCE_S, found
    )


def may_go(project: Project, *kinds: str) -> None:
    for kind in kinds:
        (project.folder / f"{kind}.may-go").touch()


def assert_that_nothing_ran(project: Project) -> None:
    project.until(waiting=2, running=0)
    assert project.journal("started") == []
    assert [it for it in project.stats()["workers"] if it["slots"]] == []
    may_go(project, "work", "worker")
    assert project.burst("--processes", "1").code == 0  # The drain does not apply to later workers.
    assert {(it["outcome"], it["attempt"]) for it in project.by_id().values()} == {("ok", 1)}


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_sigterm_ends_workers_that_start_at_once(slow: Project) -> None:
    may_go(slow, "work")
    fleet = slow.work("--processes", "2")
    importing(slow, "worker", 2)
    assert fleet.stop() == 0  # Although their imports never finish.
    assert_that_nothing_ran(slow)


@pytest.mark.parametrize("whom", ["--all", pytest.param("--here", marks=pytest.mark.long)])
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_drain_ends_workers_that_start_without_a_claim(slow: Project, whom: str) -> None:
    may_go(slow, "work")
    fleet = slow.work("--processes", "2")
    importing(slow, "worker", 2)
    done = slow.ok("drain", whom, "--wait", "--json")
    assert done.json == {"workers": [], "unheard": [], "left": []}
    may_go(slow, "worker")
    assert fleet.end() == 0
    assert "died" not in fleet.log
    assert_that_nothing_ran(slow)


@pytest.mark.long
def test_a_drain_covers_the_replacement_of_a_worker_that_has_died(slow: Project) -> None:
    may_go(slow, "work", "worker")
    fleet = slow.work("--processes", "1")
    slow.until(delivered=2)
    (slow.folder / "worker.may-go").unlink()
    (pid,) = fleet.pids
    os.kill(pid, signal.SIGKILL)
    importing(slow, "worker", 2)
    slow.ok("drain", "--here")
    slow.ok("send", "toys", "echo c")
    may_go(slow, "worker")
    assert fleet.end() == 0
    slow.until(waiting=1, running=0)


def test_sigterm_ends_work_while_it_checks_the_agents(slow: Project) -> None:
    fleet = slow.work("--processes", "1")
    importing(slow, "work")
    assert fleet.stop() == 0
    assert_that_nothing_ran(slow)


@pytest.mark.long
def test_sigterm_ends_a_worker_of_plain_dramatiq_while_it_starts(slow: Project) -> None:
    may_go(slow, "work")
    command = [sys.executable, "-m", "dramatiq", "agentpipe.actors", "--processes", "1"]
    with subprocess.Popen(
        command,
        env={**slow.environ, "PLAIN": "1"},
        cwd=slow.folder,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as alone:
        try:
            importing(slow, "worker")
            os.killpg(alone.pid, signal.SIGTERM)
            assert alone.wait(PATIENCE_S) == 0
        finally:
            alone.kill()
    assert_that_nothing_ran(slow)
