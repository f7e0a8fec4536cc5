"""A worker's own shortage is no error of the agent: it runs fewer tasks at once, and logs it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

TASKS, FILES = 200, 160
TIMEOUT_S = 120.0
DRAMATIQ = ("-m", "dramatiq", "agentpipe.actors", "--processes", "1")
AGENT = """
import asyncio
import contextlib
import time


class Async:
    async def execute(self, task, context):
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(open("/dev/null"))
            await asyncio.sleep(0.05)
        return "fine"


class Wrapping(Async):
    async def execute(self, task, context):
        try:
            return await super().execute(task, context)
        except OSError:
            raise RuntimeError("cannot open my files")


class Plain:
    def execute(self, task, context):
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(open("/dev/null"))
            time.sleep(0.05)
        return "fine"
"""


LEAKING = """
KEPT = []


class Leaking:
    async def execute(self, task, context):
        for _ in range(10):
            KEPT.append(open("/dev/null"))
        return "fine"
"""

# In a worker, files can have 1 MB while the file `short` exists: less than a worker's last word.
SHORT = """
import multiprocessing
import os
import resource

from toys import Toy

if multiprocessing.parent_process() and os.path.exists("short"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
"""


def burst(project: Project, files: int) -> subprocess.CompletedProcess[str]:
    """Run workers with a limit on open files."""
    work = [sys.executable, "-m", "agentpipe", "work", "--burst", "--processes", "1"]
    return subprocess.run(
        ["/bin/sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *work],
        env=project.environ,
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def full_of(project: Project, kind: str, **spec: Any) -> None:
    project.write("files.py", AGENT)
    agent = f"kind: agent\nspec: {{name: a, type: python, config: {{class: 'files:{kind}'}}}}\n"
    project.write("files.yaml", agent)
    project.collection("crew", "./files.yaml", number=100, **spec)
    project.send(*["?"] * TASKS, to="crew")


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Async", {}),
        pytest.param("Wrapping", {"max_retries": 0}, marks=pytest.mark.long),
        pytest.param("Plain", {}, marks=pytest.mark.long),
        pytest.param("Async", {"isolation": "process"}, marks=pytest.mark.long),
    ],
)
@pytest.mark.long
def test_too_few_files_for_all_slots_cost_time_and_no_task(
    project: Project, kind: str, spec: dict[str, Any]
) -> None:
    full_of(project, kind, **spec)
    done = burst(project, FILES)
    assert done.returncode == 0, done.stderr
    outcomes = [result["outcome"] for result in project.results()]
    assert outcomes == ["ok"] * TASKS
    lines = [line for line in done.stderr.splitlines() if "short of open files" in line]
    assert 1 <= len(lines) <= 3
    assert "paused" not in done.stderr


@pytest.mark.long
def test_a_task_that_never_has_enough_is_a_dead_letter_in_the_end(project: Project) -> None:
    project.write(
        "hungry.py",
        "class Agent:\n    def execute(self, task, context):\n        raise MemoryError\n",
    )
    agent = "kind: agent\nspec: {name: a, type: python, config: {class: 'hungry:Agent'}}\n"
    project.write("hungry.yaml", agent)
    project.collection("crew", "./hungry.yaml", max_retries=1)
    project.send("?", to="crew")
    project.burst("--processes", "1")
    (result,) = project.results()
    assert (result["outcome"], result["error"]["type"]) == ("infra_error", "MemoryError")
    assert "permanent" not in result["error"]
    assert project.stats()["dead"] == 1


@pytest.mark.long
@pytest.mark.every_broker
def test_a_worker_whose_runs_leave_files_open_is_replaced(project: Project) -> None:
    project.write("files.py", AGENT + LEAKING)
    agent = "kind: agent\nspec: {name: a, type: python, config: {class: 'files:Leaking'}}\n"
    project.write("files.yaml", agent)
    project.collection("crew", "./files.yaml", number=4)
    project.send(*["?"] * 60, to="crew")
    done = burst(project, FILES)
    assert done.returncode == 0, done.stderr
    assert "runs that have ended hold all open files of this worker" in done.stderr
    assert [result["outcome"] for result in project.results()] == ["ok"] * 60


@pytest.mark.long
@pytest.mark.parametrize("command", [("work",), DRAMATIQ], ids=["supervisor", "master"])
def test_a_worker_that_cannot_start_ends_instead_of_serving_nothing(
    project: Project, command: tuple[str, ...]
) -> None:
    project.write("short", "")
    project.agent("short:Toy", SHORT)
    project.collection()
    project.send("echo")
    options = ("--processes", "1") if command == ("work",) else ()
    fleet = project.work(*options, command=command)
    wait_until(lambda: "this worker cannot start" in fleet.log, 60, "it says so")
    (project.folder / "short").unlink()
    if command == DRAMATIQ:  # It has no supervisor: its master ends with it.
        assert fleet.end() != 0
        return
    project.until(delivered=1)
    assert fleet.stop() == 0
