"""A Stream returns each task once, commits after use, and survives unreadable records."""

from __future__ import annotations

import math
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
import pytest

from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import seen
from agentpipe.sinks.base import Record, check_start
from agentpipe.sinks.portion import MOST, Portion
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ListReader:
    """A Reader over pages in memory."""

    def __init__(self, pages: Sequence[Sequence[Record]]) -> None:
        self.pages = [list(page) for page in pages]
        self.committed: list[int] = []
        self.recalled: list[str] = []

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        if not self.pages:
            time.sleep(timeout_s)
            return []
        page = self.pages[0]
        taken, self.pages[0] = page[:limit], page[limit:]
        if not self.pages[0]:
            self.pages.pop(0)
        return taken

    def recall(self) -> list[str]:
        recalled, self.recalled = self.recalled, []
        return recalled

    def commit(self, record: Record) -> None:
        self.committed.append(record.position)

    def close(self) -> None:
        """Do nothing."""


def record(task_id: str, position: int = 0, payload: bytes | None = None, **fields: Any) -> Record:
    if payload is None:
        payload = orjson.dumps(Result(task_id=task_id, **fields).to_dict())
    return Record(task_id, payload, position)


def submitted(task_id: str, second: int, **fields: Any) -> Record:
    return record(task_id, submitted_at=f"2026-01-01T00:00:{second:02}.000000Z", **fields)


def test_results_come_in_order_and_the_silence_ends_it() -> None:
    reader = ListReader([[record("a"), record("b")], [], [record("c")]])
    assert [each.task_id for each in Stream(reader, timeout_s=0)] == ["a", "b"]
    assert [each.task_id for each in Stream(reader, timeout_s=0.01)] == ["c"]


def test_a_record_is_committed_when_the_caller_comes_back() -> None:
    reader = ListReader([[record("a", 1), record("b", 2), record("c", 3)]])
    results = iter(Stream(reader, timeout_s=0))
    next(results)
    assert reader.committed == []
    next(results)
    assert reader.committed == [1]
    next(results)
    assert next(results, None) is None
    assert reader.committed == [1, 2, 3]


def test_records_may_be_committed_together_and_are_before_anything_is_waited_for() -> None:
    reader = ListReader([[record(each, n) for n, each in enumerate("abcde")], []])
    stream = Stream(reader, timeout_s=0, commit_every=2)
    assert len(list(stream)) == 5
    assert reader.committed == [1, 3, 4]
    stream.close()
    assert reader.committed == [1, 3, 4]


def test_closing_commits_what_was_used_and_not_what_is_in_hand() -> None:
    reader = ListReader([[record(each, n) for n, each in enumerate("abcde")]])
    stream = Stream(reader, timeout_s=0, commit_every=100)
    results = iter(stream)
    for _ in range(3):
        next(results)
    stream.close()
    assert reader.committed == [1]


def test_a_later_loop_goes_on_where_one_was_left() -> None:
    names = [f"t{number}" for number in range(200)]
    reader = ListReader([[record(each, n) for n, each in enumerate(names)]])
    stream = Stream(reader, timeout_s=0)
    found: list[str] = []
    for size in (20, 30, 200):  # The size of a read grows with the number already read.
        found += [each.task_id for each in islice(stream, size)]
    stream.close()
    assert (found, reader.committed[-1]) == (names, 199)


def test_what_is_held_is_committed_as_it_is_released() -> None:
    reader = ListReader([[record(each, n) for n, each in enumerate("abcde")]])
    stream = Stream(reader, timeout_s=0, keep=math.inf, known=["b"])
    assert [each.task_id for each in stream] == ["a", "c", "d", "e"]
    assert reader.committed == []
    assert stream.held == ["a", "b", "c", "d", "e"]
    stream.release(2)
    assert (reader.committed, stream.held) == ([1], ["c", "d", "e"])
    stream.release(99)
    assert (reader.committed, stream.held) == ([1, 4], [])
    stream.close()
    assert reader.committed == [1, 4]


def test_the_newest_may_be_kept_back_and_the_others_are_committed() -> None:
    reader = ListReader([[record(each, n) for n, each in enumerate("abcde")]])
    stream = Stream(reader, timeout_s=0, keep=2)
    assert len(list(stream)) == 5
    assert reader.committed == [0, 1, 2]
    assert stream.held == ["d", "e"]


class AwayReader(ListReader):
    """Unreachable for the first polls."""

    def __init__(self, pages: Sequence[Sequence[Record]], polls: int) -> None:
        super().__init__(pages)
        self.polls = polls

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        if self.polls:
            self.polls -= 1
            raise Unreachable("gone")
        return super().poll(limit, timeout_s)


def test_a_sink_that_goes_away_is_waited_for_as_silence_is() -> None:
    back = AwayReader([[record("a")]], polls=2)
    assert [each.task_id for each in Stream(back, timeout_s=1)] == ["a"]
    with pytest.raises(Unreachable, match="gone"):
        list(Stream(AwayReader([], polls=1_000), timeout_s=0.05))


def test_a_caller_that_leaves_has_not_used_its_last_record() -> None:
    reader = ListReader([[record("a", 1), record("b", 2)]])
    for _ in Stream(reader, timeout_s=0):
        break
    assert reader.committed == []


def test_a_caller_that_stops_has_used_its_last_record_and_waits_for_no_other() -> None:
    reader = ListReader([[record("a", 1), record("b", 2)]])
    stopped = Stream(reader)
    for _ in stopped:
        stopped.stop()
    assert reader.committed == [1]


def test_a_repeated_task_is_dropped_counted_and_committed() -> None:
    reader = ListReader([[record("a", 1), record("b", 2), record("a", 3)], [record("a", 4)]])
    results = Stream(reader, timeout_s=0)
    assert [each.task_id for each in results] == ["a", "b"]
    assert (results.repeated, results.skipped) == (2, 0)
    assert reader.committed == [1, 2, 3, 4]


def test_what_a_groups_reader_recalls_is_not_given_again() -> None:
    reader = ListReader([[record("a", 3), record("c", 4)]])
    reader.recalled = ["a", "b"]
    results = Stream(reader, timeout_s=0)
    assert [each.task_id for each in results] == ["c"]
    assert results.repeated == 1


def test_an_id_that_is_used_again_is_another_task() -> None:
    page = [submitted("a", 1, worker=each) for each in ("one", "two")]
    results = Stream(ListReader([[*page, submitted("a", 2), page[1]]]), timeout_s=0)
    assert [each.submitted_at for each in results] == [
        "2026-01-01T00:00:01.000000Z",
        "2026-01-01T00:00:02.000000Z",
    ]
    assert results.repeated == 2


def test_a_replay_that_was_sent_twice_is_one_task() -> None:
    page = [submitted("a-replay-1", second, replay_of="a") for second in (1, 2)]
    results = Stream(ListReader([page]), timeout_s=0)
    assert len(list(results)) == 1


def test_a_known_id_that_is_used_again_is_another_task() -> None:
    page = [submitted("a", 1), submitted("a", 1, worker="another"), submitted("a", 2)]
    results = list(Stream(ListReader([page]), timeout_s=0, known=["a"]))
    assert [each.submitted_at for each in results] == ["2026-01-01T00:00:02.000000Z"]


class KnowingReader(ListReader):
    def submissions(self, task_id: str) -> list[str | None]:
        return ["2026-01-01T00:00:01.000000Z"] if task_id == "a" else []


def test_a_recalled_id_that_is_used_again_is_another_task_if_the_reader_can_tell() -> None:
    for kind, given in ((KnowingReader, 1), (ListReader, 0)):
        reader = kind([[submitted("a", 1, worker="another"), submitted("a", 2)]])
        reader.recalled = ["a"]
        assert len(list(Stream(reader, timeout_s=0))) == given


class LosingReader(ListReader):
    """Records at even positions go to another reader after they were polled."""

    def take(self, record: Record) -> bool:
        return bool(record.position % 2)


def test_records_that_went_to_another_reader_are_not_given() -> None:
    reader = LosingReader([[record(each, n) for n, each in enumerate("abcde")]])
    assert [each.task_id for each in Stream(reader, timeout_s=0)] == ["b", "d"]
    assert reader.committed == [1, 3]


def test_a_stream_takes_what_its_caller_uses_in_a_moment() -> None:
    class NotingReader(ListReader):
        limits: ClassVar[list[int]] = []

        def poll(self, limit: int, timeout_s: float) -> list[Record]:
            self.limits.append(limit)
            return super().poll(limit, timeout_s)

    reader = NotingReader([[record(str(n), n) for n in range(300)]])
    results = iter(Stream(reader, timeout_s=0))
    next(results)
    assert reader.limits == [1]
    assert len(list(results)) == 299
    assert max(reader.limits) > 1


def test_a_portion_follows_its_callers_pace() -> None:
    portion = Portion()
    limits = []
    for number, seconds in ((1, 1e-4), (2, 2e-4), (4, 0), (8, 0.1), (4, 60), (1, 60), (1, 0.01)):
        portion.used(number, seconds)
        limits.append(portion.limit)
    assert limits == [2, 4, 8, 4, 1, 1, 2]
    for _ in range(20):
        portion.used(portion.limit, 1e-9)
    assert portion.limit == MOST


def test_what_is_no_result_is_skipped_counted_and_committed() -> None:
    broken = [b"", b"\xff", b"{}", b"[1]", b'{"schema": 2}', b'{"schema": 1, "task_id": {}}']
    pages = [[record("x", index, payload) for index, payload in enumerate(broken)]]
    reader = ListReader([*pages, [record("z", 99)]])
    results = Stream(reader, timeout_s=0)
    assert [each.task_id for each in results] == ["z"]
    assert results.skipped == len(broken)
    assert reader.committed == [0, 1, 2, 3, 4, 5, 99]


def test_the_newest_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "REMEMBERED", 2)
    reader = ListReader([[record(each) for each in "abcca"]])
    results = Stream(reader, timeout_s=0)
    assert [each.task_id for each in results] == ["a", "b", "c", "a"]
    assert results.repeated == 1


@pytest.mark.parametrize("start", ["begining", "", "5", None, True, math.nan, math.inf, 10**400])
def test_a_misspelt_start_is_refused_and_not_the_end_of_the_stream(
    start: Any, tmp_path: Path
) -> None:
    settings = Settings(sink=f"sqlite:///{tmp_path}/results.db")
    with pytest.raises(ConfigError, match=r"^start: expected 'beginning', 'now' or Unix seconds"):
        Stream.open(settings, start=start)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", [0, -5, 5.5, type("Float64", (float,), {})(5)])
def test_any_finite_number_of_seconds_is_a_start(start: float) -> None:
    check_start(start)


def test_the_timeout_begins_anew_with_each_record() -> None:
    class SlowReader(ListReader):
        def poll(self, limit: int, timeout_s: float) -> list[Record]:
            time.sleep(min(0.1, timeout_s))
            return super().poll(limit, 0 if self.pages else timeout_s)

    reader = SlowReader([[record(each)] for each in "abcdef"])
    assert len(list(Stream(reader, timeout_s=0.5))) == 6
