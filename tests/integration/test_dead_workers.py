"""A worker dies, but its machine does not: its tasks run again long before its lease ends."""

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

# Longer than any test waits: repeated runs cannot have waited for the lease to end.
LEASE_S = "600"


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_the_supervisor_returns_the_tasks_of_a_worker_that_was_killed(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = LEASE_S
    project.collection(number=2)
    fleet = project.work("--processes", "1", "--slots", "2")
    project.send("sleep-at-first 60", "sleep-at-first 60")
    wait_until(lambda: len(project.journal("started")) == 2, 60, "both run")
    (pid,) = fleet.pids
    os.kill(pid, signal.SIGKILL)
    project.until(delivered=2)
    assert fleet.stop() == 0
    results = project.by_id().values()
    assert {(result["outcome"], result["attempt"]) for result in results} == {("ok", 2)}


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="a guard needs files without names")
def test_so_does_the_guard_of_a_worker_without_supervisor(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = LEASE_S
    project.collection(number=2)
    command = [sys.executable, "-m", "dramatiq", "agentpipe.actors", "--processes", "1"]
    with subprocess.Popen(
        command, env=project.environ, cwd=project.folder, stderr=subprocess.DEVNULL
    ) as alone:
        try:
            project.send("sleep-at-first 60")
            wait_until(lambda: project.journal("started"), 60, "it runs")
            (worker,) = project.stats()["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            alone.wait(60)
            assert project.burst("--processes", "1").code == 0
        finally:
            alone.kill()
    (result,) = project.by_id().values()
    assert (result["outcome"], result["attempt"]) == ("ok", 2)
