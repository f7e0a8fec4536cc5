"""A failing sink loses nothing: results wait, then workers do, and no task runs twice."""

from __future__ import annotations

import fcntl
import sqlite3
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.integration.project import Project

TASKS, HIGH_WATER, SLOTS = 120, 20, 4


@contextmanager
def away(path: Path) -> Iterator[None]:
    """The sink's folder cannot be created."""
    path.parent.write_text("a file in the folder's place")
    yield
    path.parent.unlink()


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """The sink opens, but every write fails."""
    _execute(path, "ALTER TABLE records RENAME TO records_away")
    yield
    _execute(path, "ALTER TABLE records_away RENAME TO records")


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """A write blocks without failing."""
    with Path(f"{path}-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _execute(path: Path, statement: str) -> None:
    db = sqlite3.connect(path, timeout=30)
    with db:
        db.execute(statement)
    db.close()


@pytest.mark.long
@pytest.mark.parametrize("outage", [away, failing, hanging])
def test_while_the_sink_is_out_workers_stop_above_the_high_water_and_then_go_on(
    project: Project, sink_url: str, outage: Callable[[Path], AbstractContextManager[None]]
) -> None:
    if not sink_url.startswith("sqlite:"):
        pytest.skip("knows how to break an SQLite sink only")
    sink_file = Path(sink_url.removeprefix("sqlite:///"))
    if outage is not away:
        assert project.results() == []  # Creates the file.
    project.environ["AGENTPIPE_OUTBOX_HIGH_WATER"] = str(HIGH_WATER)
    project.collection(number=4, max_queue_size=TASKS)
    with project.ledger_watched() as looks, outage(sink_file):
        fleet = project.work("--processes", "2", "--slots", str(SLOTS)).ready(2)
        project.send(*["echo hi"] * TASKS)
        wait_until(lambda: project.stats()["outbox"] >= HIGH_WATER, 30, "the outbox fills")
        _wait_for_beats(project)
        stats = project.stats()
        assert HIGH_WATER <= stats["outbox"] <= HIGH_WATER + 2 * SLOTS
        assert stats["delivered"] == 0
        assert "outbox full" in project.ok("status").out
        assert stats["waiting"] == TASKS - stats["outbox"]
    project.until(delivered=TASKS)
    assert fleet.stop() == 0
    assert max(look["outbox"] for look in looks) <= HIGH_WATER + 2 * SLOTS
    assert len(project.by_id()) == TASKS
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    assert len(runs) == TASKS
    assert set(runs.values()) == {1}
    if outage is not hanging:
        assert "results wait in the outbox" in fleet.log
        assert "the sink takes results again" in fleet.log


@pytest.mark.long
def test_the_pressure_of_a_sink_that_is_out_reaches_the_sender(
    project: Project, sink_url: str
) -> None:
    project.environ["AGENTPIPE_OUTBOX_HIGH_WATER"] = "5"
    project.collection(number=1, max_queue_size=10)
    with away(Path(sink_url.removeprefix("sqlite:///"))):
        fleet = project.work("--processes", "1").ready(1)
        accepted = []

        def is_refused() -> bool:
            done = project.run("send", "toys", "echo hi", "--json")
            accepted.extend(done.json["task_ids"])
            return done.code == 3

        wait_until(is_refused, 60, "a task is refused")
        stats = project.until(waiting=10)
        assert stats["outbox"] >= 5
        assert stats["running"] == 0
    project.until(delivered=len(accepted))
    assert fleet.stop() == 0
    assert set(project.by_id()) == set(accepted)


def _wait_for_beats(project: Project) -> None:
    """Wait for two heartbeats of each worker, so it could have claimed more."""
    beats, ages = Counter[str](), dict[str, float]()

    def have_beaten() -> bool:
        for worker in project.stats()["workers"]:
            name, age = worker["worker"], worker["seen_s"]
            beats[name] += age < ages.get(name, 0.0)
            ages[name] = age
        return min(beats.values()) >= 2

    wait_until(have_beaten, 20, "two beats of each worker")
    assert len(beats) == 2


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_results_that_a_killed_worker_left_are_carried_by_the_next(
    project: Project, sink_url: str
) -> None:
    sink_file = Path(sink_url.removeprefix("sqlite:///"))
    project.environ["AGENTPIPE_LEASE_S"] = "0.5"
    project.collection(number=4)
    with away(sink_file):
        fleet = project.work("--processes", "1").ready(1)
        project.send(*["echo hi"] * 30)
        project.until(outbox=30)
        project.kill()
        fleet.end()
    project.burst("--processes", "1")
    assert len(project.by_id()) == 30
    assert len(project.journal("started")) == 30
    assert project.stats()["delivered"] == 30


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_what_a_worker_with_a_sink_of_its_own_that_fails_has_is_delivered_by_others(
    project: Project,
) -> None:
    """Regression: it kept what it had taken until it ended."""
    project.environ["AGENTPIPE_LEASE_S"] = "600"
    project.collection(number=2)
    broken = f"sqlite:///{project.write('broken', '')}/results.db"
    fleet = project.work("--processes", "1", env={"AGENTPIPE_SINK": broken}).ready(1)
    project.send(*["echo hi"] * 10)
    wait_until(lambda: project.stats()["outbox"] == 10, 30, "all results wait")
    other = project.work("--processes", "1").ready(1)
    project.until(delivered=10)
    assert (fleet.stop(), other.stop()) == (0, 0)
