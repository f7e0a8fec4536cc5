"""``agentpipe schedule`` in real processes that are killed and stopped."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import KeepsSchedules
from agentpipe.errors import Unreachable
from agentpipe.sending.schedule import CHUNK
from agentpipe.sending.schedule_mark import mark_of
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

TASKS = 3_000


@dataclass(frozen=True)
class Hourly:
    """A schedule that was due half an hour ago, so that it is not due again during the test."""

    at: datetime

    @property
    def cron(self) -> str:
        return f"{self.at.minute} * * * *"

    @property
    def key(self) -> str:
        return f"toys/nightly/{self.cron}/UTC"


@pytest.fixture
def hourly() -> Hourly:
    half_an_hour_ago = datetime.now(UTC) - timedelta(minutes=30)
    return Hourly(half_an_hour_ago.replace(second=0, microsecond=0))


def due(project: Project, hourly: Hourly, tasks: int, **spec: Any) -> None:
    """Schedule tasks, and record the last due firing as started, with nothing sent yet."""
    project.tasks(*[f"echo {number}" for number in range(tasks)], name="nightly.jsonl")
    entry = {"cron": hourly.cron, "tasks": "./nightly.jsonl", "missed": "run_all"}
    project.collection(schedule=[entry], **spec)
    store = project.open_store()
    assert isinstance(store, KeepsSchedules)
    store.progress(hourly.key, mark_of(hourly.at, 0))
    store.close()


def has_calendar(project: Project, hourly: Hourly) -> bool:
    """Whether this process can use the schedule; after a kill, a server frees it with a delay."""
    store = project.open_store()
    try:
        assert isinstance(store, KeepsSchedules)
        return store.progress(hourly.key, 0) is not None
    except Unreachable:
        return False
    finally:
        store.close()


@pytest.mark.long
def test_what_is_due_is_sent_once(project: Project, hourly: Hourly) -> None:
    due(project, hourly, 3)
    at = hourly.at.isoformat()
    run = ("schedule", "run", "--once", "--json")
    (fired,) = project.ok(*run).lines
    assert fired == {
        "collection": "toys",
        "schedule": "nightly",
        "fire_time": at,
        "accepted": 3,
        "duplicates": 0,
    }
    assert project.ok(*run).out == ""
    project.burst("--processes", "1")
    results = project.by_id()
    assert {result["result"] for result in results.values()} == {"0", "1", "2"}
    assert {result["metadata"]["fire_time"] for result in results.values()} == {at}


@pytest.mark.long
@pytest.mark.every_broker
def test_a_killed_schedulers_batch_is_finished_by_the_next(
    project: Project, hourly: Hourly
) -> None:
    due(project, hourly, TASKS, max_queue_size=2 * TASKS)
    killed = project.start("schedule", "run")
    wait_until(lambda: (project.stats()["waiting"] or 0) > CHUNK, 30, "it has begun")
    killed.kill()
    killed.wait()
    begun = project.stats()["waiting"]
    wait_until(lambda: has_calendar(project, hourly), 30, "the calendar is free")
    project.ok("schedule", "run", "--once")
    waiting = project.stats()["waiting"]
    assert begun < TASKS, "it was killed too late to tell anything"
    if project.settles_in_one_step:
        assert waiting == TASKS
    else:  # Ids are not remembered: unrecorded tasks are sent again.
        assert TASKS <= waiting <= TASKS + CHUNK


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_two_schedulers_at_once_are_harmless(project: Project, hourly: Hourly) -> None:
    due(project, hourly, TASKS, max_queue_size=2 * TASKS)
    pair = [project.start("schedule", "run") for _ in range(2)]
    project.until(waiting=TASKS)
    for each in pair:
        each.send_signal(signal.SIGTERM)
    # The slower one can be killed before it starts.
    assert {each.wait(60) for each in pair} <= {0, -signal.SIGTERM}
    assert project.stats()["waiting"] == TASKS


def test_a_full_queue_delays_it_and_loses_nothing(project: Project, hourly: Hourly) -> None:
    due(project, hourly, 30, max_queue_size=5)
    scheduler = project.start("schedule", "run", "--once", "--json")
    project.until(waiting=5)
    project.work("--processes", "1").ready(1)
    out, err = scheduler.communicate(timeout=60)
    assert scheduler.returncode == 0
    assert '"accepted":30' in out
    assert err.count("the queues are full") == 1
    project.until(delivered=30)
    assert Counter(project.streamed()).total() == 30


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_when_told_to(
    project: Project, hourly: Hourly, number: signal.Signals, code: int
) -> None:
    due(project, hourly, 3)
    running = project.start("schedule", "run")
    assert running.stdout is not None
    assert "3 accepted, 0 duplicates" in running.stdout.readline()
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in err


def test_list_shows_the_next_times(project: Project) -> None:
    project.tasks("echo", name="nightly.jsonl")
    entry = {"cron": "0 3 * * *", "tasks": "nightly.jsonl", "timezone": "Asia/Kolkata"}
    project.collection(schedule=[entry, {**entry, "name": "second", "missed": "skip"}])
    first, second = project.ok("schedule", "list", "--count", "2", "--json").json["schedules"]
    assert (first["name"], first["missed"], second["missed"]) == ("nightly", "run_once", "skip")
    times = [datetime.fromisoformat(each["utc"]) for each in first["next"]]
    assert [f"{each:%H:%M}" for each in times] == ["21:30", "21:30"]
    assert times[1] - times[0] == timedelta(days=1)
    assert first["next"][0]["local"].endswith("T03:00:00+05:30")
    assert "toys/second  '0 3 * * *' in Asia/Kolkata" in project.ok("schedule", "list").out
    assert project.run("schedule", "list", "--count", "0").code == 2


def test_what_cannot_be_sent_is_told_before_anything_runs(project: Project) -> None:
    project.write("nightly.jsonl", '{"question": "ok"}\n{"qestion": 5}\n')
    project.collection(schedule=[{"cron": "30 * * * *", "tasks": "nightly.jsonl"}])
    for command in (("check",), ("schedule", "run")):
        done = project.run(*command)
        assert done.code == 2, command
        assert "nightly.jsonl:2: unknown key 'qestion'" in done.out + done.err
