"""The embedded store is locked for longer than a lease: no run is lost or blamed."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.integration.stopped_sender import STOPPED_SENDER
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Fleet, Project

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc"),
]
LEASE_S = 2.0  # The default of test projects.


def test_a_stopped_sender_is_named_and_nothing_is_lost_when_it_goes_on(project: Project) -> None:
    fleet = _fleet_with_runs(project, processes=2, seconds=4 * LEASE_S)
    sender = project.start("-c", STOPPED_SENDER)
    said = f"process {sender.pid} ("
    wait_until(lambda: said in fleet.log, 60, "a worker says who holds the lock")
    assert f"kill -CONT {sender.pid}" in fleet.log
    late = project.run("send", "toys", "echo late")
    assert (late.code, late.out) == (4, "")
    assert said in late.err
    assert project.stats()["running"] == 4  # Readers are not blocked.
    _outlast_the_lease()
    os.kill(sender.pid, signal.SIGCONT)
    out, _ = sender.communicate(timeout=60)
    assert sender.returncode == 0, out
    project.until(delivered=5, outbox=0)
    assert fleet.stop() == 0
    _assert_each_ran_once(project, 5)


def test_a_disk_that_is_full_for_longer_than_a_lease_costs_no_run(project: Project) -> None:
    fleet = _fleet_with_runs(project, processes=2, seconds=2 * LEASE_S)
    with _without_space(project, fleet.pids):
        wait_until(lambda: "the broker does not answer" in fleet.log, 60, "they say so")
        wait_until(lambda: len(project.journal("finished")) == 4, 60, "all runs end meanwhile")
        _outlast_the_lease()
    project.until(delivered=4, outbox=0)
    for words in ("began anew", "the broker answers again"):
        wait_until(lambda said=words: said in fleet.log, 30, f"a worker says {words}")  # type: ignore[misc]
    assert fleet.log.count("began anew") <= 2  # Not at each try, while the disk is full.
    assert fleet.stop() == 0
    _assert_each_ran_once(project, 4)


def test_a_verdict_waits_for_a_disk_that_is_full_for_longer_than_a_lease(project: Project) -> None:
    project.collection("toys", number=1, concurrency=8)
    fleet = project.work("--processes", "1", "--slots", "4").ready(1)
    project.send(*["sleep-at-first 600"] * 3)
    wait_until(lambda: len(project.journal("started")) == 3, 60, "all run")
    (worker,) = fleet.pids
    with _without_space(project, {worker, fleet.process.pid}):
        os.kill(worker, signal.SIGSTOP)  # Ended by its supervisor; no run is to blame.
        wait_until(lambda: "is frozen" in fleet.log, 60, "it is ended")
        _outlast_the_lease()
    project.until(delivered=3, outbox=0)
    assert fleet.stop() == 0
    results = project.by_id().values()
    assert {(result["outcome"], result["attempt"]) for result in results} == {("ok", 1)}


def _fleet_with_runs(project: Project, *, processes: int, seconds: float) -> Fleet:
    """Workers that run four tasks, without waiting tasks."""
    project.collection("toys", number=1, concurrency=8, max_crashes=1)
    fleet = project.work("--processes", str(processes), "--slots", "4").ready(processes)
    project.send(*[f"sleep {seconds}"] * 4)
    wait_until(lambda: len(project.journal("started")) == 4, 60, "all run")
    return fleet


@contextmanager
def _without_space(project: Project, pids: set[int]) -> Iterator[None]:
    """Limit the size of the files of these, and of what they start, to what their log needs."""
    for pid in pids:
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, most))
    yield
    for pid in project.processes():
        with suppress(ProcessLookupError):
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


def _outlast_the_lease() -> None:
    ends = time.monotonic() + 2 * LEASE_S
    wait_until(lambda: time.monotonic() > ends, 3 * LEASE_S, "all leases would have lapsed")


def _assert_each_ran_once(project: Project, tasks: int) -> None:
    started = [entry["task_id"] for entry in project.journal("started")]
    assert len(started) == len(set(started)) == tasks
    assert {result["outcome"] for result in project.by_id().values()} == {"ok"}
