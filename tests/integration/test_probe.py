"""`agentpipe probe`, beside real workers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.long
def test_a_supervisor_lives_until_it_stops(project: Project) -> None:
    project.environ["AGENTPIPE_HEARTBEAT_FILE"] = str(project.folder / "beat")
    project.collection()
    assert project.run("probe", "live").code == 1
    fleet = project.work("--processes", "1").ready(1)
    live = project.ok("probe", "live", "--json").json
    assert live["good"]
    assert project.ok("probe", "ready").out.startswith("the broker answers, 0 results")
    os.kill(fleet.process.pid, signal.SIGSTOP)
    wait_until(lambda: project.run("probe", "live", "--max-age", "2").code == 1, 30, "it is silent")
    os.kill(fleet.process.pid, signal.SIGCONT)
    wait_until(lambda: project.run("probe", "live", "--max-age", "2").code == 0, 30, "it is back")
    assert fleet.stop() == 0


def test_a_probe_says_what_it_needs(project: Project) -> None:
    project.collection()
    done = project.run("probe", "live")
    assert (done.code, "set AGENTPIPE_HEARTBEAT_FILE" in done.err) == (2, True)
    gone = {"AGENTPIPE_BROKER": "redis://127.0.0.1:1/0"}
    assert project.run("probe", "ready", env=gone).code == 4
