"""A Stream gives each task once, commits after use, and survives what it cannot read."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import orjson
import pytest

from agentpipe.core.result import Result
from agentpipe.errors import Unreachable
from agentpipe.sinks import stream
from agentpipe.sinks.base import Record
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        """Nothing is held."""


def record(task_id: str, position: int = 0, payload: bytes | None = None) -> Record:
    if payload is None:
        payload = orjson.dumps(Result(task_id=task_id).to_dict())
    return Record(task_id, payload, position)


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
    """Away for the first polls."""

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


def test_what_is_no_result_is_skipped_counted_and_committed() -> None:
    broken = [b"", b"\xff", b"{}", b"[1]", b'{"schema": 2}', b'{"schema": 1, "task_id": {}}']
    pages = [[record("x", index, payload) for index, payload in enumerate(broken)]]
    reader = ListReader([*pages, [record("z", 99)]])
    results = Stream(reader, timeout_s=0)
    assert [each.task_id for each in results] == ["z"]
    assert results.skipped == len(broken)
    assert reader.committed == [0, 1, 2, 3, 4, 5, 99]


def test_the_newest_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REMEMBERED_IDS", 2)
    reader = ListReader([[record(each) for each in "abcca"]])
    results = Stream(reader, timeout_s=0)
    assert [each.task_id for each in results] == ["a", "b", "c", "a"]
    assert results.repeated == 1


def test_the_timeout_begins_anew_with_each_record() -> None:
    class SlowReader(ListReader):
        def poll(self, limit: int, timeout_s: float) -> list[Record]:
            time.sleep(min(0.03, timeout_s))
            return super().poll(limit, 0 if self.pages else timeout_s)

    reader = SlowReader([[record(each)] for each in "abcdef"])
    assert len(list(Stream(reader, timeout_s=0.1))) == 6
