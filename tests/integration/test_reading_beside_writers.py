"""Commands that read the embedded store do not wait for a writer, not even for a stopped one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.stopped_sender import STOPPED_SENDER
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")


@pytest.fixture
def beside_a_writer(project: Project) -> Iterator[Project]:
    """A project with one waiting task, whose store a stopped process holds."""
    project.collection("toys", number=1)
    project.send("echo first")
    sender = project.start("-c", STOPPED_SENDER)
    wait_until(lambda: _is_stopped(sender.pid), 60, "the sender stops in its transaction")
    yield project
    os.kill(sender.pid, signal.SIGCONT)
    out, _ = sender.communicate(timeout=60)
    assert sender.returncode == 0, out
    assert project.stats()["waiting"] == 2


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_the_commands_that_read_answer_beside_a_stopped_writer(beside_a_writer: Project) -> None:
    project = beside_a_writer
    assert project.ok("status", "--json").json["waiting"] == 1
    assert project.ok("top", "--json", "--once").json["waiting"] == 1
    assert project.ok("runs", "--json").json == {"runs": []}
    (explained,) = project.ok("why", "tasks-0", "--json").lines
    assert explained["state"] == "waiting"


def test_dead_letters_checks_and_probes_answer_beside_a_stopped_writer(
    beside_a_writer: Project,
) -> None:
    project = beside_a_writer
    assert project.ok("dead", "list", "--json").json["total"] == 0
    assert project.run("dead", "show", "tasks-0").code == 1
    assert project.ok("probe", "ready", "--json").json["good"]
    assert project.ok("check", "--json").json["problems"] == []


def test_doctor_names_a_stopped_writer_and_tells_the_rest(beside_a_writer: Project) -> None:
    done = beside_a_writer.run("doctor", "--json")
    found = {each["name"]: each for each in done.json["checks"]}
    assert done.code == 1
    assert found["broker"]["status"] == "ok"
    assert found["broker workers"]["found"] == "none is running"
    assert found["broker writing"]["status"] == "fail"
    assert "kill -CONT" in found["broker writing"]["found"]
