"""Workers end with the process that started them, at any age; the meaning of exit codes."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.engines.process.process_tree import children_of
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from tests.integration.project import Fleet, Project

DRAMATIQ = ("-m", "dramatiq", "agentpipe.actors", "--processes", "1")
KILLS = 200
# Only in a worker, the import waits while the file exists.
WAITS = """\
import multiprocessing, os, time
from toys import Toy

if multiprocessing.parent_process():
    with open("importing", "w") as file:
        file.write(str(os.getpid()))
    while os.path.exists("wait"):
        time.sleep(0.01)
"""
# Only in the first worker, the import stops the process.
STOPS = """\
import multiprocessing, os, signal
from toys import Toy

if multiprocessing.parent_process() and not os.path.exists("stopped"):
    with open("stopped", "w") as file:
        file.write(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
"""
# The worker's main thread ignores SIGTERM.
DEAF = """\
import multiprocessing, signal
from toys import Toy

if multiprocessing.parent_process():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
BROKEN = """\
import multiprocessing
from toys import Toy

if multiprocessing.parent_process():
    raise ImportError("only in a worker")
"""


def _with_module(project: Project, name: str, code: str, **spec: Any) -> None:
    project.write(f"{name}.py", code)
    config = project.folder / "agent.yaml"
    project.write("module.yaml", config.read_text().replace("toys:Toy", f"{name}:Toy"))
    project.collection(config="./module.yaml", **spec)


@pytest.mark.parametrize("command", [("work",), DRAMATIQ], ids=["supervisor", "master"])
def test_a_worker_whose_parent_is_killed_while_it_boots_ends(
    project: Project, command: tuple[str, ...]
) -> None:
    _with_module(project, "waits", WAITS)
    wait = project.write("wait", "")
    options = ("--processes", "1") if command == ("work",) else ()
    fleet = project.work(*options, command=command)
    importing = project.folder / "importing"
    wait_until(lambda: importing.exists() and importing.read_text(), 60, "the worker imports")
    assert int(importing.read_text()) in project.processes()
    fleet.process.kill()
    wait_until(lambda: not project.processes(), 60, "nothing is left")
    assert wait.exists()


@pytest.mark.long
@pytest.mark.parametrize("stays", [True, False], ids=["supervised", "at its end"])
def test_a_frozen_worker_whose_master_is_killed_while_it_boots_is_ended(
    project: Project, *, stays: bool
) -> None:
    _with_module(project, "stops", STOPS)
    fleet = project.work("--processes", "1")
    stopped = project.folder / "stopped"
    wait_until(lambda: stopped.exists() and stopped.read_text(), 60, "the worker is stopped")
    worker = int(stopped.read_text())
    (master,) = children_of(fleet.process.pid)
    os.kill(master, signal.SIGKILL)
    wait_until(lambda: "replaced" in fleet.log, 60, "its master is missed")
    if stays:
        wait_until(lambda: worker not in project.processes(), 60, "it is ended")
        fleet.ready(1)
    assert fleet.stop() == 0
    wait_until(lambda: not project.processes(), 60, "nothing is left")


@pytest.mark.parametrize("boots", [True, False], ids=["booting", "serving"])
@pytest.mark.parametrize("command", [("work",), DRAMATIQ], ids=["supervisor", "master"])
def test_a_stopped_worker_does_not_outlive_the_processes_that_started_it(
    project: Project, command: tuple[str, ...], *, boots: bool
) -> None:
    project.environ["AGENTPIPE_GRACE_S"] = "0"
    _with_module(project, "stops", STOPS)
    stopped = project.folder / "stopped"
    if not boots:
        stopped.write_text("")  # None stops by itself.
    options = ("--processes", "1") if command == ("work",) else ()
    fleet = project.work(*options, command=command)
    if boots:
        wait_until(lambda: stopped.exists() and stopped.read_text(), 60, "the worker is stopped")
    else:
        (worker,) = fleet.ready(1).pids
        os.kill(worker, signal.SIGSTOP)
        _kill_guards(project)
    fleet.process.kill()
    fleet.process.wait()
    wait_until(lambda: not project.processes(), 60, "nothing is left")


def _kill_guards(project: Project) -> None:
    """Kill what would end a stopped worker of plain Dramatiq."""
    for pid in project.processes():
        if b"agentpipe.worker.watch.guard" in _command(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_a_worker_with_a_deaf_main_thread_ends_after_its_grace(project: Project) -> None:
    project.environ["AGENTPIPE_GRACE_S"] = "0"
    _with_module(project, "deaf", DEAF, concurrency=2)
    project.send("sleep 300", "sleep 300")
    fleet = project.work("--processes", "1")
    project.until(running=2)
    (worker,) = fleet.pids
    (master,) = children_of(fleet.process.pid)
    os.kill(master, signal.SIGKILL)
    wait_until(lambda: worker not in fleet.pids, 60, "it is no longer a member")
    wait_until(lambda: worker not in project.processes(), 60, "and ends")
    project.until(running=2)  # Not counted as crashes, in a new worker.
    fleet.process.kill()


@pytest.mark.long
def test_the_exit_code_of_an_agent_says_nothing_of_the_collection(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.collection(max_crashes=2)
    project.send({"task_id": "exits", "question": "exit-process 2"}, *["echo"] * 3)
    project.burst("--processes", "1")
    outcomes = {task_id: result["outcome"] for task_id, result in project.by_id().items()}
    assert outcomes.pop("exits") == "crashed"
    assert set(outcomes.values()) == {"ok"}


def test_a_mistake_that_only_a_worker_meets_ends_the_fleet(project: Project) -> None:
    _with_module(project, "broken", BROKEN)
    fleet = project.work("--processes", "2")
    assert fleet.end() == 2
    assert "only in a worker" in fleet.log
    wait_until(lambda: not project.processes(), 60, "nothing is left")


@pytest.mark.long
def test_after_200_kills_of_all_kinds_of_processes_none_is_left(project: Project) -> None:
    """Kill supervisors, masters, workers, guards and reapers of any age."""
    project.environ |= {"AGENTPIPE_GRACE_S": "0", "AGENTPIPE_LEASE_S": "5"}
    project.environ["TMPDIR"] = str(project.folder)  # The only marker that a reaper inherits.
    project.collection("toys", number=4, max_crashes=1_000)
    patient: dict[str, Any] = {
        "max_crashes": 1_000,
        "max_retries": 1_000,
    }  # A killed reaper causes an `infra_error`.
    project.collection("apart", number=2, isolation="process", **patient)
    project.send(*["sleep 0.2"] * 150)
    apart = [{"task_id": f"apart-{number}", "question": "sleep 0.3"} for number in range(40)]
    project.send(*apart, to="apart")
    chance = random.Random(16)
    fleets = [_start(project, place) for place in range(2)]
    killed = 0
    while killed < KILLS:
        for place, fleet in enumerate(fleets):
            if fleet.process.poll() is not None:
                fleets[place] = _start(project, place)
        time.sleep(chance.uniform(0.0, 0.6))  # Processes of random ages are killed.
        if found := sorted(_all(project) - _agents(project)):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
                killed += 1
    for fleet in fleets:
        fleet.process.kill()
    wait_until(lambda: not _all(project), 60, "all processes end")
    project.burst("--processes", "2", timeout_s=180)
    assert {result["outcome"] for result in project.by_id().values()} == {"ok"}
    assert len(project.by_id()) == 190
    wait_until(lambda: not _all(project), 60, "all processes end")


def _start(project: Project, place: int) -> Fleet:
    if place:
        return project.work(command=DRAMATIQ)
    return project.work("--processes", "2")


def _agents(project: Project) -> set[int]:
    """Processes of agents, which are not killed: that ends the task as ``crashed``."""
    reapers = [pid for pid in _all(project) if b"reaper.py" in _command(pid)]
    return {child for reaper in reapers for child in children_of(reaper)}


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _all(project: Project) -> set[int]:
    return processes_with(f"TMPDIR={project.folder}", "environ")
