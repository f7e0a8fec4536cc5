"""Frozen workers are ended from outside, and only the run that froze them is blamed."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from agentpipe.engines.process.process_tree import children_of
from agentpipe.worker.watch.freeze_watch import HELD_UP_S, STOPPED_S
from tests.support import wait_until

if TYPE_CHECKING:
    from typing import Any

    from tests.integration.project import Project

DRAMATIQ = ("-m", "dramatiq", "agentpipe.actors", "--processes", "1", "--threads", "4")
# A freeze is noticed after half a lease; at its end, a crash would count for all runs.
LEASE_S = "20"
KINDS = {
    "coroutine": {},
    "function": {"config": "./plain.yaml"},
    "thread": {"isolation": "thread"},
}
HELD = {"task_id": "held", "question": "hold"}


def _begin(
    project: Project, kind: str, *held: dict[str, Any], beside: int = 3, room: int = 0
) -> None:
    """Send runs, and one that freezes their worker; there is ``room`` for more."""
    project.environ["AGENTPIPE_LEASE_S"] = LEASE_S
    project.collection(concurrency=len(held) + beside + room, max_crashes=2, **KINDS[kind])
    project.send(*held, *["block 15" if kind == "function" else "sleep 15"] * beside)


def _assert_only_the_culprit_is_blamed(project: Project, beside: int = 3) -> None:
    project.until(delivered=beside + 1)
    results = project.by_id()
    culprit = results.pop("held")
    assert (culprit["outcome"], culprit["attempt"]) == ("crashed", 2)
    found = {(result["outcome"], result["attempt"]) for result in results.values()}
    assert found == {("ok", 1)}
    assert len(results) == beside


@pytest.mark.long
@pytest.mark.every_broker
@pytest.mark.parametrize("kind", KINDS)
def test_code_that_holds_the_interpreter_is_the_only_one_blamed(
    project: Project, kind: str
) -> None:
    _begin(project, kind, HELD)
    fleet = project.work("--processes", "1")
    _assert_only_the_culprit_is_blamed(project)
    assert "is frozen by task held" in fleet.log
    assert fleet.stop() == 0
    wait_until(lambda: not project.processes(), 30, "nothing is left")


@pytest.mark.long
@pytest.mark.parametrize("verb", ["hold-in-task", "hold-in-thread"])
def test_what_a_run_starts_is_the_runs(project: Project, verb: str) -> None:
    _begin(project, "coroutine", {"task_id": "held", "question": verb})
    project.work("--processes", "1")
    _assert_only_the_culprit_is_blamed(project)


@pytest.mark.long
def test_a_run_that_stops_its_own_process_is_blamed(project: Project) -> None:
    _begin(project, "coroutine", {"task_id": "held", "question": "freeze"})
    project.work("--processes", "1")
    _assert_only_the_culprit_is_blamed(project)


@pytest.mark.every_broker(but=("sqlite", "rabbitmq"))
def test_an_idle_worker_that_is_stopped_keeps_no_task_from_the_others(project: Project) -> None:
    """Redis can wake only the frozen worker; the other one's polling finds the task too."""
    project.environ["AGENTPIPE_LEASE_S"] = "300"
    project.collection(concurrency=4)
    fleet = project.work("--processes", "2").ready(2)
    frozen, _ = fleet.pids
    os.kill(frozen, signal.SIGSTOP)
    for number in range(1, 5):
        project.send({"task_id": str(number), "question": "echo one"})
        # Not delivered: the stopped worker can hold the lock of the sink's file.
        project.until(accepted=number, waiting=0, running=0)
    assert frozen in fleet.pids


@pytest.mark.long
@pytest.mark.every_broker
def test_a_worker_that_was_stopped_is_replaced_and_its_runs_go_back(project: Project) -> None:
    _begin(project, "coroutine", beside=4, room=1)
    fleet = project.work("--processes", "1").ready(1)
    _until_asleep(project, 4)
    (frozen,) = fleet.pids
    os.kill(frozen, signal.SIGSTOP)
    project.until(delivered=5)
    assert [(result["outcome"], result["attempt"]) for result in project.results()] == [
        ("ok", 1)
    ] * 5
    assert frozen not in project.processes()
    assert len(fleet.pids) == 1


def _until_asleep(project: Project, runs: int) -> None:
    """Wait until these runs sleep: one that executes at a signal would rightly be blamed.

    What runs beside them ends after their first steps.
    """
    wait_until(lambda: len(project.journal("started")) == runs, 30, "all have begun")
    project.send({"task_id": "beside", "question": "echo"})
    project.until(delivered=1, running=runs, outbox=0)


@pytest.mark.long
@pytest.mark.every_broker
@pytest.mark.parametrize("command", [(), DRAMATIQ], ids=["supervisor", "guard"])
def test_neighbours_of_a_run_that_holds_a_worker_which_is_killed_count_no_crash(
    project: Project, command: tuple[str, ...]
) -> None:
    """The neighbours return with it; if they counted crashes, they would become dead letters."""
    project.environ["AGENTPIPE_LEASE_S"] = "90"  # Half of it is longer than the test.
    project.collection(concurrency=4, max_crashes=2)
    project.send(*["sleep 15"] * 3, HELD)  # They start in this order.
    for deaths in (1, 2):
        if command or deaths == 1:  # Dramatiq exits with its worker.
            project.work(*([] if command else ["--processes", "1"]), command=command or ("work",))
        worker = wait_until(partial(_held, project, deaths), 60, "a worker is held up")
        os.kill(worker, signal.SIGKILL)
    if command:
        project.work(command=command)
    _assert_only_the_culprit_is_blamed(project)


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
@pytest.mark.parametrize("stops", ["worker", "worker and watcher"])
def test_a_worker_that_is_killed_while_it_is_stopped_blames_no_run(
    project: Project, stops: str
) -> None:
    """The runs are not to blame: a signal stopped the worker, or a pause the whole container."""
    project.environ["AGENTPIPE_LEASE_S"] = "90"
    # With more crashes allowed, each would run again alone.
    project.collection(max_crashes=1, concurrency=2)
    project.send("sleep-at-first 60")
    fleet = project.work("--processes", "1").ready(1)
    _until_asleep(project, 1)
    (worker,) = fleet.pids
    stopped = [worker] if stops == "worker" else [fleet.process.pid, worker]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    goes_on_at = time.monotonic() + HELD_UP_S + STOPPED_S
    wait_until(lambda: time.monotonic() > goes_on_at, 30, "nothing happens")
    os.kill(worker, signal.SIGKILL)
    for watcher in stopped[:-1]:
        os.kill(watcher, signal.SIGCONT)
    project.until(delivered=2)
    assert [(it["outcome"], it["attempt"]) for it in project.results()] == [("ok", 1)] * 2


def _held(project: Project, runs: int) -> int:
    """The worker that HELD blocks in its ``runs``-th run, once that was long enough to notice."""
    begun = [it for it in project.journal("started") if it["task_id"] == HELD["task_id"]]
    noticed = len(begun) == runs and time.monotonic() > begun[-1]["monotonic"] + 5 * HELD_UP_S
    return begun[-1]["pid"] if noticed else 0


@pytest.mark.long
def test_beside_a_worker_of_plain_dramatiq_a_guard_ends_it(project: Project) -> None:
    _begin(project, "function", HELD)
    for _ in range(2):  # Dramatiq exits with its worker.
        fleet = project.work(command=DRAMATIQ)
        assert fleet.end(180) != 0  # Its master can wait for 30 s in the handshake.
        assert "is frozen by task held" in fleet.log
    project.work(command=DRAMATIQ)
    _assert_only_the_culprit_is_blamed(project)


@pytest.mark.long
def test_a_guard_is_started_again_and_ends_with_its_worker(project: Project) -> None:
    project.collection()
    fleet = project.work(command=DRAMATIQ).ready(1)
    (worker,) = fleet.pids

    def guards() -> list[int]:
        return [pid for pid in children_of(worker) if b"watch.guard" in _argv(pid)]

    (first,) = wait_until(guards, 30, "a guard")
    os.kill(first, signal.SIGKILL)
    (second,) = wait_until(lambda: [pid for pid in guards() if pid != first], 40, "another one")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: second not in project.processes(), 30, "the guard ends")


def _argv(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - the fastest way
            return file.read()
    except OSError:
        return b""


@pytest.mark.long
def test_a_worker_without_parents_ends_although_it_holds_its_interpreter(
    project: Project,
) -> None:
    project.collection(config="./plain.yaml")
    project.send(HELD)
    fleet = project.work("--processes", "1")
    wait_until(lambda: project.journal("started"), 60, "the run holds the interpreter")
    fleet.process.kill()
    wait_until(lambda: not project.processes(), 90, "the worker ends by itself")
