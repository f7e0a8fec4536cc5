"""The promises of the Sink seam, over every implementation in conftest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.sinks.base import Reader, Record, Sink
from agentpipe.sinks.stream import Stream
from tests.conformance.pace import PACE
from tests.conformance.processes import read_and_hang
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenSink

PATIENCE_S = 20.0
SPAWN = multiprocessing.get_context("spawn")


def unique(noun: str) -> str:
    return f"{noun}-{uuid.uuid4().hex[:8]}"


def records(ids: Iterable[Any]) -> list[Record]:
    return [Record(str(task_id), f"result of {task_id}".encode()) for task_id in ids]


def result_record(task_id: str, **fields: Any) -> Record:
    return Record(task_id, orjson.dumps(Result(task_id=task_id, **fields).to_dict()))


def ids_of(found: Iterable[Record]) -> list[str]:
    return [record.task_id for record in found]


def read(reader: Reader, number: int, limit: int = 100) -> list[Record]:
    """Poll until there are ``number`` records, without a commit."""
    found: list[Record] = []

    def enough() -> bool:
        found.extend(reader.poll(limit, 0.2))
        return len(found) >= number

    wait_until(enough, PATIENCE_S, f"{number} records")
    return found


def nothing_more(reader: Reader) -> bool:
    return reader.poll(100, 0.05) == []


# Publishing and reading.


def test_what_is_published_is_read(sink: Sink) -> None:
    sink.publish(records("abc"))
    reader = sink.follow(None, "beginning")
    found = read(reader, 3)
    assert sorted((each.task_id, each.payload) for each in found) == [
        ("a", b"result of a"),
        ("b", b"result of b"),
        ("c", b"result of c"),
    ]
    assert all(each.position is not None for each in found)
    reader.close()


def test_publishing_nothing_publishes_nothing(sink: Sink) -> None:
    sink.publish([])
    reader = sink.follow(None, "beginning")
    assert nothing_more(reader)
    reader.close()


def test_a_reader_from_now_sees_only_what_comes_later(sink: Sink) -> None:
    sink.publish(records("ab"))
    reader, group_reader = sink.follow(None, "now"), sink.follow(unique("group"), "now")
    sink.publish(records("cd"))
    for each in (reader, group_reader):
        assert sorted(ids_of(read(each, 2))) == ["c", "d"]
        assert nothing_more(each)
        each.close()


def test_a_reader_without_a_group_remembers_nothing(sink: Sink) -> None:
    sink.publish(records("ab"))
    for _ in range(2):
        reader = sink.follow(None, "beginning")
        found = read(reader, 2)
        reader.commit(found[-1])
        assert len(found) == 2
        reader.close()


def test_a_poll_is_never_larger_than_asked_for(sink: Sink) -> None:
    sink.publish(records(range(7)))
    for group in (None, unique("group")):
        reader = sink.follow(group, "beginning")
        assert 1 <= len(reader.poll(3, PATIENCE_S)) <= 3
        reader.close()


def test_what_a_closed_reader_gave_back_is_polled_within_the_limit(sink: Sink) -> None:
    sink.publish(records(range(7)))
    group = unique("group")
    greedy = sink.follow(group, "beginning")
    read(greedy, 7)
    greedy.close()
    modest = sink.follow(group, "beginning")
    pages = []
    while page := modest.poll(3, 0.5):
        pages.append(page)
    assert all(len(page) <= 3 for page in pages)
    assert sorted(task_id for page in pages for task_id in ids_of(page)) == list("0123456")
    modest.close()


@pytest.mark.parametrize("grouped", [False, True])
def test_an_empty_poll_takes_its_timeout(sink: Sink, *, grouped: bool) -> None:
    reader = sink.follow(unique("group") if grouped else None, "beginning")
    begun = time.monotonic()
    assert reader.poll(10, 0.1) == []
    assert 0.09 <= time.monotonic() - begun < 10
    assert reader.poll(10, 0) == []
    reader.close()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_poll_ends_as_soon_as_there_is_a_record(
    sink: Sink, open_another_sink: OpenSink, *, grouped: bool
) -> None:
    reader = sink.follow(unique("group") if grouped else None, "beginning")
    reader.poll(10, 0)
    publisher = open_another_sink()
    timer = threading.Timer(0.05, publisher.publish, [records("a")])
    begun = time.monotonic()
    timer.start()
    assert ids_of(reader.poll(10, 30)) == ["a"]
    assert time.monotonic() - begun < 15
    timer.join()
    reader.close()


def test_large_payloads_pass_unchanged(sink: Sink) -> None:
    payload = os.urandom(600 * 1024)
    sink.publish([Record(f"large-{index}", payload) for index in range(4)])
    reader = sink.follow(None, "beginning")
    assert {each.payload for each in read(reader, 4)} == {payload}
    reader.close()


def test_everything_survives_closing(sink: Sink, open_another_sink: OpenSink) -> None:
    sink.publish(records("ab"))
    sink.close()
    reader = open_another_sink().follow(None, "beginning")
    assert sorted(ids_of(read(reader, 2))) == ["a", "b"]
    reader.close()


def test_closing_twice_is_harmless_and_a_closed_sink_is_unreachable(sink: Sink) -> None:
    sink.close()
    sink.close()
    with pytest.raises(Unreachable):
        sink.publish(records("a"))


# Groups.


def test_a_group_without_a_name_is_refused(sink: Sink, sink_settings: Settings) -> None:
    with pytest.raises(ConfigError, match="empty name"):
        sink.follow("", "beginning")
    with pytest.raises(ConfigError, match="empty name"):
        Stream.open(sink_settings, group="")


def test_each_group_sees_everything(sink: Sink, open_another_sink: OpenSink) -> None:
    sink.publish(records(range(20)))
    for connection in (sink, sink, open_another_sink()):
        reader = connection.follow(unique("group"), "beginning")
        found = read(reader, 20)
        reader.commit(found[-1])
        assert sorted(map(int, ids_of(found))) == list(range(20))
        reader.close()


def test_a_group_goes_on_where_it_committed(sink: Sink, open_another_sink: OpenSink) -> None:
    group = unique("group")
    sink.publish(records("abcdef"))
    first = sink.follow(group, "beginning")
    found = read(first, 6)
    first.commit(found[2])
    first.close()
    second = open_another_sink().follow(group, "beginning")
    assert sorted(ids_of(read(second, 3))) == sorted(ids_of(found[3:]))
    assert nothing_more(second)
    second.close()


def test_a_group_with_a_past_ignores_where_to_start(sink: Sink) -> None:
    group = unique("group")
    sink.publish(records("ab"))
    first = sink.follow(group, "beginning")
    found = read(first, 2)
    first.commit(found[0])
    first.close()
    sink.publish(records("c"))
    second = sink.follow(group, "now")
    assert sorted(ids_of(read(second, 2))) == sorted([found[1].task_id, "c"])
    second.close()


@pytest.mark.needs("shares_records")
def test_what_a_reader_gives_back_is_no_repeat_for_one_that_came_later(sink: Sink) -> None:
    group = unique("group")
    sink.publish([result_record(each) for each in "abcd"])
    first = sink.follow(group, "beginning")
    held = ids_of(read(first, 2, limit=2))
    with Stream(sink.follow(group, "beginning"), timeout_s=PACE.quiet_s) as stream:
        results = iter(stream)
        found = [next(results).task_id]
        first.close()
        found += [each.task_id for each in results]
    assert sorted(found) == sorted("abcd"), f"the first reader held {held}"


def test_a_group_that_began_now_keeps_what_comes_while_nobody_reads(sink: Sink) -> None:
    group = unique("group")
    sink.publish(records("a"))
    first = sink.follow(group, "now")
    assert nothing_more(first)
    first.close()
    sink.publish(records("b"))
    second = sink.follow(group, "now")
    assert ids_of(read(second, 1)) == ["b"]
    second.close()


def test_readers_of_one_group_share_without_overlap(
    sink: Sink, open_another_sink: OpenSink
) -> None:
    group = unique("group")
    readers = [sink.follow(group, "beginning"), open_another_sink().follow(group, "beginning")]
    sink.publish(records(range(50)))
    found: list[str] = []

    def all_read() -> bool:
        for reader in readers:
            polled = reader.poll(4, 0.2)
            found.extend(ids_of(polled))
            if polled:
                reader.commit(polled[-1])
        return len(found) >= 50

    wait_until(all_read, PATIENCE_S, "the readers have read all together")
    assert sorted(map(int, found)) == list(range(50))
    assert all(nothing_more(reader) for reader in readers)
    for reader in readers:
        reader.close()


@pytest.mark.needs("shares_records")
def test_uncommitted_records_are_another_readers_once_theirs_closes(sink: Sink) -> None:
    group = unique("group")
    sink.publish(records("abc"))
    first, second = sink.follow(group, "beginning"), sink.follow(group, "beginning")
    found = read(first, 3)
    first.commit(found[0])
    first.close()
    assert sorted(ids_of(read(second, 2))) == sorted(ids_of(found[1:]))
    second.close()


@pytest.mark.needs("shares_records")
def test_a_commit_covers_all_that_was_polled_before_and_nothing_after(sink: Sink) -> None:
    group = unique("group")
    sink.publish(records("abcdef"))
    first, second = sink.follow(group, "beginning"), sink.follow(group, "beginning")
    left = first.poll(2, PATIENCE_S)
    before = second.poll(2, PATIENCE_S)
    first.close()
    after: list[Record] = read(second, 4)
    second.commit(before[-1])
    second.close()
    third = sink.follow(group, "beginning")
    assert sorted(ids_of(read(third, 4))) == sorted(ids_of(after))
    assert set(ids_of(left)) <= set(ids_of(after))
    third.commit(after[-1])
    third.close()


def test_committing_twice_is_harmless(sink: Sink) -> None:
    group = unique("group")
    sink.publish(records("ab"))
    reader = sink.follow(group, "beginning")
    found = read(reader, 2)
    reader.commit(found[0])
    reader.commit(found[0])
    reader.close()
    again = sink.follow(group, "beginning")
    assert ids_of(read(again, 1)) == [found[1].task_id]
    again.close()


@pytest.mark.needs("shares_records")
def test_a_killed_readers_records_are_read_by_the_next(sink: Sink, sink_settings: Settings) -> None:
    group = unique("group")
    sink.publish(records(range(10)))
    polled = SPAWN.Queue()
    process = SPAWN.Process(
        target=read_and_hang, args=(sink_settings, group, 4, polled), daemon=True
    )
    process.start()
    pid, lent = polled.get(timeout=60)
    reader = sink.follow(group, "beginning")
    mine = ids_of(read(reader, 10 - len(lent)))
    assert set(mine).isdisjoint(lent)
    os.kill(pid, signal.SIGKILL)
    process.join(30)
    again = ids_of(read(reader, len(lent) - 1))
    assert sorted(again) == sorted(lent[1:])
    assert nothing_more(reader)
    reader.close()


# Through a Stream.


def test_a_repeated_task_is_seen_once(sink: Sink) -> None:
    sink.publish([result_record(task_id) for task_id in "abc"])
    sink.publish([result_record(task_id) for task_id in "bcd"])
    reader = sink.follow(None, "beginning")
    stream = Stream(reader, timeout_s=0.3)
    assert sorted(result.task_id for result in stream) == ["a", "b", "c", "d"]
    reader.close()


def test_a_record_that_is_no_result_is_skipped_and_counted(sink: Sink) -> None:
    broken = [b"", b"\xff\xfe", b"{", b"[]", b'{"schema": 99}', b'{"schema": 1, "task_id": []}']
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    broken += [b'{"schema": 1, "task_id": "x", "result": ' + deep + b"}", b"[" * 100_000]
    sink.publish([result_record("a")])
    sink.publish([Record(f"broken-{index}", payload) for index, payload in enumerate(broken)])
    sink.publish([result_record("z")])
    group = unique("group")
    reader = sink.follow(group, "beginning")
    stream = Stream(reader, timeout_s=0.3)
    assert sorted(result.task_id for result in stream) == ["a", "z"]
    assert stream.skipped == len(broken)
    reader.close()
    again = sink.follow(group, "beginning")
    assert nothing_more(again)
    again.close()


@pytest.mark.needs("remembers_reads")
def test_a_groups_new_reader_knows_what_the_last_one_read(sink: Sink) -> None:
    group = unique("group")
    sink.publish([result_record(task_id) for task_id in "abc"])
    first = sink.follow(group, "beginning")
    assert sorted(result.task_id for result in Stream(first, timeout_s=0.3)) == ["a", "b", "c"]
    first.close()
    # Not identical bytes: the repeat can come from another run, or can have been cut.
    repeat = orjson.dumps(Result(task_id="b", worker="another").to_dict())
    sink.publish([Record("b", repeat), result_record("d")])
    second = sink.follow(group, "beginning")
    assert [result.task_id for result in Stream(second, timeout_s=0.3)] == ["d"]
    second.close()


@pytest.mark.needs("remembers_reads")
def test_a_groups_new_reader_knows_an_id_that_is_used_again(sink: Sink) -> None:
    group = unique("group")
    sink.publish([result_record(each, submitted_at="at 1") for each in "abc"])
    with Stream(sink.follow(group, "beginning"), timeout_s=0.3) as stream:
        assert len(list(stream)) == 3
    sink.publish(
        [
            result_record("b", submitted_at="at 1", worker="another"),
            result_record("b", submitted_at="at 2"),
        ]
    )
    with Stream(sink.follow(group, "beginning"), timeout_s=0.3) as stream:
        assert [(each.task_id, each.submitted_at) for each in stream] == [("b", "at 2")]


@pytest.mark.needs("shares_records")
def test_a_slow_reader_leaves_the_others_what_it_does_not_use(
    sink: Sink, open_another_sink: OpenSink
) -> None:
    group = unique("group")
    sink.publish([result_record(str(number)) for number in range(50)])
    with Stream(sink.follow(group, "beginning")) as slow:
        in_hand = next(iter(slow)).task_id
        with Stream(open_another_sink().follow(group, "beginning"), timeout_s=1) as stream:
            found = [each.task_id for each in stream]
    assert sorted(map(int, [in_hand, *found])) == list(range(50))


def test_a_reader_may_begin_at_a_moment(sink: Sink) -> None:
    sink.publish(records("ab"))
    wait_until(partial(_has_passed, time.time() + 0.01), 1, "the clock goes on")
    moment = time.time()
    wait_until(partial(_has_passed, moment + 0.01), 1, "the clock goes on")
    sink.publish(records("cd"))
    for group in (None, unique("group")):
        reader = sink.follow(group, moment)
        assert sorted(ids_of(read(reader, 2))) == ["c", "d"]
        assert nothing_more(reader)
        reader.close()


def _has_passed(moment: float) -> bool:
    return time.time() > moment


def test_a_result_counts_as_used_when_the_caller_comes_back(sink: Sink) -> None:
    group = unique("group")
    sink.publish([result_record(task_id) for task_id in "abc"])
    reader = sink.follow(group, "beginning")
    stream = iter(Stream(reader, timeout_s=PATIENCE_S))
    first, second = next(stream).task_id, next(stream).task_id
    reader.close()
    again = sink.follow(group, "beginning")
    left = [result.task_id for result in Stream(again, timeout_s=PACE.quiet_s)]
    assert first not in left
    assert second in left
    assert sorted([first, *left]) == ["a", "b", "c"]
    again.close()
