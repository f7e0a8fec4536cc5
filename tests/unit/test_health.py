"""What `doctor` reports about limits, versions and clocks that this machine does not have."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.statistics import WorkerSeen
from agentpipe.connections.amqp.health import timeout_of
from agentpipe.connections.health import file_system_of
from agentpipe.core.result import Result
from agentpipe.core.timestamps import utc
from agentpipe.operations import clocks, doctor
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from pathlib import Path


def worker(name: str, clock: float | None, seen_s: float = 0.0) -> WorkerSeen:
    report = Heartbeat(clock=clock).encode()
    return WorkerSeen(name, f"host-{name}", 1, 1, 0, seen_s, report)


@pytest.mark.parametrize(
    ("soft", "hard", "status", "found"),
    [
        (1024, 4096, "ok", "1,024, up to 4,096 for workers"),
        (1024, 4095, "warn", "1,024, up to 4,095 for workers"),
        (512, 512, "warn", "512"),
        (1024, resource.RLIM_INFINITY, "ok", "1,024, up to unlimited for workers"),
    ],
)
def test_the_hard_limit_counts(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, status: str, found: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    for each in doctor.limits():
        assert (each.status, each.found, bool(each.advice)) == (status, found, status != "ok")


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.8", "warn"), ("3.11.28", "warn"), ("3.12.0", "ok"), ("4.1.0", "ok"), ("?", "warn")],
)
def test_queues_say_their_timeout_from_a_version_on(version: str, status: str) -> None:
    assert timeout_of(version, "told", "advice").status == status


def test_a_beat_that_is_old_makes_no_clock_wrong() -> None:
    told = clocks.worker_clocks([worker("a", 990.0, 10.0), worker("b", 1000.2)], 1000.0, 0.01)
    assert (told.status, told.found) == (
        "ok",
        "2 workers, at most +0.200 s against this machine, to within 0.010 s",
    )


def test_the_clock_that_is_worst_is_named_and_all_machines_whose_clocks_are_off() -> None:
    seen = [worker("a", 1005.0), worker("b", 900.0, 60.0), worker("c", None), worker("d", 1000.5)]
    told = clocks.worker_clocks(seen, 1000.0, 0.1)
    assert told.found == "2 of 3 off: b on host-b by -40.000 s against this machine"
    assert told.advice == "run an NTP client on host-a, host-b"


def test_what_cannot_be_measured_so_exactly_is_not_called_off() -> None:
    assert clocks.worker_clocks([worker("a", 1002.0)], 1000.0, 1.5).status == "ok"
    assert clocks.worker_clocks([worker("a", 1002.0)], 1000.0, 0.5).status == "warn"


def test_a_worker_that_has_not_been_heard_for_long_is_named() -> None:
    told = doctor.workers_heard([worker("a", None, 1.0), worker("b", None, 61.0)])
    assert (told.status, "whether b is alive" in told.advice) == ("warn", True)


def test_a_file_system_is_the_nearest_one_above(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw\nserver:/x {tmp_path} ext4 rw\nserver:/x {tmp_path} nfs4 rw")
    (tmp_path / "deep").mkdir()
    assert file_system_of(tmp_path / "deep", mounts) == "nfs4"
    assert file_system_of(tmp_path.parent, mounts) == "ext4"
    assert file_system_of(tmp_path, tmp_path / "none") == ""


def test_results_that_end_while_they_are_read_are_not_in_the_future() -> None:
    clock = iter(range(1_000, 2_000, 10))
    ended = (Result(task_id="t", worker="w", finished_at=utc(at)) for at in range(1_000, 1_500, 10))
    found = clocks.clocks_in_results(ended, lambda: float(next(clock)))
    assert (found.status, found.found) == ("ok", "plausible in 50 results in the last hour")


def test_a_result_of_a_clock_that_is_ahead_is_found() -> None:
    ahead = Result(task_id="t", worker="w", finished_at=utc(1_060))
    found = clocks.clocks_in_results([ahead], lambda: 1_000.0)
    assert found.status == "warn"
    assert "w, or the sender of its tasks, is off by 60.0 s" in found.found
