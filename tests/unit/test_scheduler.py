"""Schedules, on a clock that the test sets."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from agentpipe.brokers.capabilities import TaskQuery
from agentpipe.brokers.records import Queue
from agentpipe.brokers.sqlite import SqliteStore
from agentpipe.config.collection import Collection, ScheduleSpec
from agentpipe.core.task_fields import MAX_ID
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sending.firing import Fired, check_files
from agentpipe.sending.schedule import CHUNK, Schedule
from agentpipe.sending.scheduler import Scheduler, schedules_of
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.records import Admission, Offer

MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class FakeClock:
    """Waiting takes no real time, and triggers the test's events at their times."""

    def __init__(self, now: datetime = MIDNIGHT) -> None:
        self.time = now
        self.ends = now
        self.events: list[tuple[datetime, Callable[[], None]]] = []

    def now(self) -> datetime:
        return self.time

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        # Coarse, so that hours of waiting for room take few steps.
        self.time += timedelta(seconds=max(seconds, 15))
        for event in [each for each in self.events if each[0] <= self.time]:
            self.events.remove(event)
            event[1]()

    @property
    def is_stopped(self) -> bool:
        return self.time > self.ends


class KilledError(BaseException):
    """Stands in for a kill of the process."""


class OneStore(SqliteStore):
    """Can be unreachable, and can kill the scheduler after a number of offers."""

    away = False
    kill_after = -1

    def _offer(self, target: str, offers: Sequence[Offer], **how: Any) -> Admission:
        if self.away:
            raise Unreachable("gone")
        admission = super()._offer(target, offers, **how)
        self.kill_after -= 1
        if self.kill_after == 0:
            raise KilledError
        return admission


class Bench:
    """A store, a task file, and schedulers that use them."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder}/broker.db?synchronous=normal"
        self.store = OneStore(url, Settings(broker=url))
        self.file = folder / "nightly.jsonl"
        self.fired: list[Fired] = []
        self.clock = FakeClock()
        self.tasks({"question": "one"}, {"question": "two", "task_id": "mine"})
        self.room(10_000)

    def tasks(self, *tasks: object) -> None:
        self.file.write_text("".join(json.dumps(each) + "\n" for each in tasks))

    def room(self, number: int) -> None:
        self.store.declare([Queue("toys_0", "toys", number)])

    def spec(self, cron: str = "0 * * * *", **fields: str) -> ScheduleSpec:
        return ScheduleSpec("nightly", cron, self.file, "c.yaml", 5, **fields)

    def schedules(self, cron: str = "0 * * * *", **fields: str) -> list[Schedule]:
        spec = self.spec(cron, **fields)
        collection = Collection("toys", Path("c.yaml"), 1, Path("a.yaml"), schedule=(spec,))
        return schedules_of([collection], Dispatcher(self.store), self.store, self.fired.append)

    def run(self, for_: timedelta, cron: str = "0 * * * *", **fields: str) -> None:
        """Run a new scheduler for this long."""
        self.clock.ends = self.clock.time + for_
        Scheduler(self.schedules(cron, **fields), self.clock).run()

    def once(self, cron: str = "0 * * * *", **fields: str) -> None:
        self.clock.ends = self.clock.time + 24 * HOUR
        Scheduler(self.schedules(cron, **fields), self.clock).run(once=True)

    def down(self, for_: timedelta) -> None:
        """Let time pass without a scheduler."""
        self.clock.time += for_

    @property
    def times(self) -> list[str]:
        return [f"{each.fire_time:%d %H:%M}" for each in self.fired]

    def waiting(self) -> dict[str, dict[str, object]]:
        return {
            each.task_id: orjson.loads(each.payload)
            for each in self.store.tasks(TaskQuery(limit=999))
        }


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_each_firing_sends_the_file_under_ids_of_its_own(bench: Bench) -> None:
    bench.run(HOUR * 2.5)
    assert bench.times == ["01 01:00", "01 02:00"]
    waiting = bench.waiting()
    assert list(waiting) == [
        "1@toys.nightly@20260601T010000Z",
        "mine@toys.nightly@20260601T010000Z",
        "1@toys.nightly@20260601T020000Z",
        "mine@toys.nightly@20260601T020000Z",
    ]
    assert waiting["1@toys.nightly@20260601T010000Z"]["metadata"] == {
        "schedule": "nightly",
        "fire_time": "2026-06-01T01:00:00+00:00",
    }


def test_metadata_of_the_file_stays(bench: Bench) -> None:
    bench.tasks({"question": "x", "metadata": {"schedule": "my own", "n": 1}})
    bench.run(HOUR * 1.5)
    (task,) = bench.waiting().values()
    assert task["metadata"] == {
        "schedule": "my own",
        "fire_time": "2026-06-01T01:00:00+00:00",
        "n": 1,
    }


def test_a_long_id_is_made_short_and_stays_the_same(bench: Bench) -> None:
    bench.tasks({"task_id": "x" * MAX_ID})
    bench.run(HOUR * 1.5)
    (task_id,) = bench.waiting()
    assert len(task_id) == 32


def test_a_schedule_has_no_past_before_it_is_first_seen(bench: Bench) -> None:
    bench.once(missed="run_all")
    assert bench.times == []
    bench.down(HOUR * 1.5)
    bench.once(missed="run_all")
    assert bench.times == ["01 01:00"]


@pytest.mark.parametrize(
    ("missed", "times"),
    [
        ("run_all", ["01 01:00", "01 02:00", "01 03:00", "01 04:00"]),
        ("run_once", ["01 03:00", "01 04:00"]),
        ("skip", ["01 04:00"]),
    ],
)
def test_what_was_missed_runs_by_its_policy(bench: Bench, missed: str, times: list[str]) -> None:
    bench.run(HOUR / 2, missed=missed)
    bench.down(HOUR * 3)
    bench.run(HOUR, missed=missed)
    assert bench.times == times


@pytest.mark.parametrize("missed", ["run_all", "run_once", "skip"])
@pytest.mark.parametrize("ahead", [24 * HOUR, 365 * 24 * HOUR])
def test_a_mark_in_the_future_is_said_once_and_silences_no_schedule(
    bench: Bench, missed: str, ahead: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    right = bench.clock.time
    bench.clock.time += ahead
    bench.run(HOUR * 1.5, missed=missed)
    assert len(bench.fired) == 1
    bench.clock.time = right
    bench.run(HOUR * 2.5, missed=missed)
    assert bench.times[1:] == ["01 01:00", "01 02:00"]
    assert caplog.text.count("a clock was or is wrong; it goes on from now") == 1
    bench.down(HOUR)
    bench.run(HOUR, missed=missed)  # The next scheduler continues from there.
    ends = {"run_all": ["01 03:00", "01 04:00"], "run_once": ["01 03:00", "01 04:00"]}
    assert bench.times[3:] == ends.get(missed, ["01 04:00"])


def test_a_clock_that_is_set_back_while_it_runs_silences_no_schedule(bench: Bench) -> None:
    def set_back() -> None:
        bench.clock.time -= 24 * HOUR
        bench.clock.ends -= 24 * HOUR

    bench.clock.events.append((bench.clock.time + 1.1 * HOUR, set_back))
    bench.run(HOUR * 3.5, missed="skip")
    assert bench.times == ["01 01:00", "31 02:00", "31 03:00"]


@pytest.mark.parametrize(("missed", "number"), [("run_all", 2), ("run_once", 1), ("skip", 0)])
def test_a_scheduler_that_slept_has_missed_what_came(
    bench: Bench, missed: str, number: int
) -> None:
    at = MIDNIGHT + HOUR / 2
    bench.clock.events.append((at, lambda: bench.down(HOUR * 2)))
    bench.run(HOUR * 2.9, missed=missed)
    assert len(bench.fired) == number


def test_a_restart_of_a_moment_misses_nothing(bench: Bench) -> None:
    bench.run(HOUR - timedelta(seconds=20), missed="skip")
    bench.down(timedelta(seconds=40))
    bench.run(HOUR / 2, missed="skip")
    assert bench.times == ["01 01:00"]


def test_missed_is_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.run(HOUR / 2, missed="skip")
    bench.down(HOUR * 3)
    bench.run(HOUR / 4, missed="skip")
    assert "3 firings missed since 2026-06-01T01:00:00+00:00, skipped" in caplog.text


def test_another_line_begins_with_the_day_it_is_seen(bench: Bench) -> None:
    bench.run(HOUR * 5.5, "0 1 * * *")
    bench.run(HOUR, "0 3 * * *", missed="run_all")
    assert bench.times == ["01 01:00"]


def test_daylight_saving(bench: Bench) -> None:
    bench.clock.time = datetime(2026, 3, 29, tzinfo=UTC)
    bench.run(HOUR * 26, "30 2 * * *", timezone="Europe/Berlin")
    assert bench.times == ["29 01:30", "30 00:30"]
    bench.fired.clear()
    bench.clock.time = datetime(2026, 10, 25, tzinfo=UTC)
    bench.run(HOUR * 26, "30 2 * * *", timezone="Europe/Berlin", missed="skip")
    assert bench.times == ["25 00:30", "26 01:30"]


def test_two_schedulers_send_each_task_once(bench: Bench) -> None:
    bench.tasks(*[{"question": str(number)} for number in range(CHUNK * 3 + 5)])
    one, other = bench.schedules(), bench.schedules()
    bench.clock.ends = MIDNIGHT + HOUR * 2.5
    Scheduler([*one, *other], bench.clock).run()
    stats = bench.store.stats()
    assert stats.accepted == stats.waiting == 2 * (CHUNK * 3 + 5)
    assert {each.fire_time.hour for each in bench.fired} == {1, 2}


@pytest.mark.parametrize("killed_after", [1, 2, 3])
@pytest.mark.parametrize("missed", ["run_once", "run_all", "skip"])
def test_a_restart_in_the_middle_finishes_the_batch(
    bench: Bench, killed_after: int, missed: str
) -> None:
    number = CHUNK * 3 + 5
    bench.tasks(*[{"question": str(number)} for number in range(number)])
    bench.store.kill_after = killed_after
    with pytest.raises(KilledError):
        bench.run(HOUR * 2, missed=missed)
    assert bench.store.stats().accepted == killed_after * CHUNK
    bench.down(HOUR / 2)
    bench.run(HOUR / 4, missed=missed)
    stats = bench.store.stats()
    assert stats.accepted == number
    # Tasks sent just before the kill are duplicates; earlier ones are not even offered again.
    assert bench.fired[-1].duplicates == CHUNK


def test_a_full_queue_delays_a_batch_and_what_is_behind_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.room(3)
    bench.clock.events.append((MIDNIGHT + HOUR * 3.5, lambda: bench.room(100)))
    bench.run(HOUR * 3.4, missed="skip")
    assert bench.times == ["01 01:00"]
    assert list(bench.waiting())[2] == "1@toys.nightly@20260601T020000Z"
    assert caplog.text.count("the queues are full") == 1
    bench.down(timedelta(seconds=1))
    bench.run(HOUR / 2, missed="run_all")
    assert bench.times == ["01 01:00", "01 02:00", "01 03:00"]
    assert bench.store.stats().accepted == 6


def test_firings_behind_a_full_queue_were_not_missed(bench: Bench) -> None:
    bench.room(3)
    bench.clock.events.append((MIDNIGHT + HOUR * 4.5, lambda: bench.room(100)))
    bench.run(HOUR * 5.5, missed="skip")
    assert bench.times == ["01 01:00", "01 02:00", "01 03:00", "01 04:00", "01 05:00"]


def test_a_full_queue_of_one_holds_up_no_other(bench: Bench) -> None:
    bench.room(1)
    bench.store.declare([Queue("others_0", "others")])
    spec = bench.spec()
    collections = [
        Collection(name, Path("c.yaml"), 1, Path("a.yaml"), schedule=(spec,))
        for name in ("toys", "others")
    ]
    schedules = schedules_of(collections, Dispatcher(bench.store), bench.store, bench.fired.append)
    bench.clock.ends = MIDNIGHT + HOUR * 2.5
    Scheduler(schedules, bench.clock).run()
    assert [each.collection for each in bench.fired] == ["others", "others"]


def test_a_broker_that_is_away_delays_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.store.away = True
    bench.clock.events.append((MIDNIGHT + HOUR * 2.5, lambda: setattr(bench.store, "away", False)))
    bench.run(HOUR * 2.9, missed="skip")
    assert bench.times == ["01 01:00", "01 02:00"]
    assert caplog.text.count("the broker does not answer") == 1
    assert "goes on" in caplog.text


def test_a_broken_file_is_said_and_waited_for(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench.file.write_text('{"question": "ok"}\n{"qestion": "x"}\n')
    bench.clock.events.append((MIDNIGHT + HOUR * 1.5, lambda: bench.tasks({"question": "ok"})))
    bench.run(HOUR * 1.9)
    assert bench.times == ["01 01:00"]
    assert caplog.text.count("nightly.jsonl:2: unknown key 'qestion'") == 1


def test_an_empty_file_is_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.tasks()
    bench.run(HOUR * 1.5)
    assert "nightly.jsonl holds no task" in caplog.text
    assert bench.times == ["01 01:00"]


def test_a_file_that_is_one_json_text_will_do(bench: Bench, tmp_path: Path) -> None:
    bench.file = tmp_path / "tasks.json"
    bench.file.write_text('[\n{"question": "a"},\n{"question": "b"}\n]\n')
    bench.run(HOUR * 1.5)
    assert bench.store.stats().accepted == 2


def test_all_files_are_read_through_first(bench: Bench) -> None:
    bench.file.write_text('{"question": 5}\nnothing\n')
    collection = Collection(
        "toys", Path("c.yaml"), 1, Path("a.yaml"), schedule=(bench.spec(), bench.spec())
    )
    with pytest.raises(ConfigError) as caught:
        check_files([collection])
    assert [problem.line for problem in caught.value.problems] == [1, 2]


def test_once_ends_when_a_full_queue_has_room(bench: Bench) -> None:
    bench.once()
    bench.room(1)
    bench.down(HOUR * 1.5)
    bench.clock.events.append((bench.clock.time + HOUR, lambda: bench.room(100)))
    bench.once()
    assert bench.times == ["01 01:00"]
    assert bench.clock.time < MIDNIGHT + HOUR * 2.6


def test_a_store_that_keeps_no_schedules_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="this broker cannot keep schedules"):
        schedules_of([], Dispatcher(bench.store), cast("SqliteStore", object()), bench.fired.append)
    with pytest.raises(ConfigError, match="`schedule`"):
        schedules_of([], Dispatcher(bench.store), bench.store, bench.fired.append)
