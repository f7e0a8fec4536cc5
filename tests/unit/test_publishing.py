"""A record that the sink refuses is found and cut, or set aside; the others are published."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import OutboxRecord
from agentpipe.core.groups import GroupEnd
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import RecordsRefused, StoreError, Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import truncate
from agentpipe.worker.outbox.publishing import publish
from tests.support import refuse_in_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from agentpipe.sinks.base import Sink

LIMIT = 20_000


class PickySink:
    """Refuses records that match a condition; without ``exact``, refuses their whole batch."""

    def __init__(self, refuses: Callable[[Record], str], *, exact: bool = False) -> None:
        self._refuses, self._exact = refuses, exact
        self.taken: dict[str, Result] = {}
        self.calls = 0

    def publish(self, records: Sequence[Record]) -> None:
        self.calls += 1
        refused = {n: why for n, it in enumerate(records) if (why := self._refuses(it))}
        if self._exact or not refused:
            self._take(record for n, record in enumerate(records) if n not in refused)
        if refused:
            why = next(iter(refused.values()))
            left = list(refused) if self._exact else ()
            raise RecordsRefused(why, left=left, too_large=why == "large", remedy="raise it")

    def _take(self, records: Iterator[Record]) -> None:
        self.taken |= {it.task_id: Result.decode(it.payload) for it in records}


def record(number: int, **fields: Any) -> OutboxRecord:
    result = Result(task_id=f"t{number}", agent="crew_0", collection="crew", **fields)
    return OutboxRecord(number, f"t{number}", result.encode(Redactor(())))


def large(it: Record) -> str:
    return "large" if len(it.payload) > LIMIT else ""


@pytest.mark.parametrize("exact", [True, False])
def test_a_record_that_is_too_large_is_cut_its_largest_field_first(*, exact: bool) -> None:
    sink = PickySink(large, exact=exact)
    records = [record(number, result="answer") for number in range(100)]
    records[37] = record(37, result="answer", policy_version="v" * 1_500_000, trace=[{"a": 1}])
    assert publish(sink, records) == []  # type: ignore[arg-type]
    assert sorted(sink.taken) == sorted(f"t{number}" for number in range(100))
    cut = sink.taken["t37"]
    assert (cut.result, cut.trace, cut.policy_version) == ("answer", [{"a": 1}], None)
    assert (cut.truncated or {})["fields"] == ["policy_version"]
    assert (cut.truncated or {})["bytes"] == len(records[37].payload)
    assert sink.calls < 40


def test_a_record_that_is_refused_whatever_its_size_is_set_aside_with_the_reason() -> None:
    sink = PickySink(lambda it: "large" if it.task_id in ("t3", "t7") else "")
    records = [record(number, result="x" * 5_000) for number in range(10)]
    refused = publish(sink, records)  # type: ignore[arg-type]
    assert [each.record.number for each in refused] == [3, 7]
    assert {each.reason for each in refused} == {"large"}
    assert (refused[0].queue, refused[0].collection, refused[0].outcome) == ("crew_0", "crew", "ok")
    assert refused[0].record is records[3]
    assert len(sink.taken) == 8


def test_a_record_that_is_refused_for_another_reason_loses_no_answer() -> None:
    sink = PickySink(lambda it: "poison" if b"evil" in it.payload else "")
    spans = [{"records": [{"data": "evil"}]}]
    records = [record(0, result="fine"), record(1, result="paid", trace=spans)]
    records.append(record(2, result="evil"))
    (refused,) = publish(sink, records)  # type: ignore[arg-type]
    assert refused.record.number == 2
    assert sink.taken["t1"].result == "paid"
    assert (sink.taken["t1"].truncated or {})["reason"] == "poison"


def test_what_is_no_result_can_be_set_aside_too() -> None:
    sink = PickySink(lambda _: "no")
    (refused,) = publish(sink, [OutboxRecord(1, "a", b"\xff")])  # type: ignore[arg-type]
    assert (refused.queue, refused.collection, refused.outcome) == ("", None, "infra_error")


def test_how_a_group_ended_is_never_cut() -> None:
    members = tuple(f"g/{index}" for index in range(4_000))
    refused = OutboxRecord(1, "g", GroupEnd("g", "complete", 200, members).encode())
    sink = PickySink(large)
    (refusal,) = publish(sink, [refused])  # type: ignore[arg-type]
    assert (refusal.record, sink.taken) == (refused, {})
    assert truncate(Record("g", refused.payload), 100, "") == refused.payload


@pytest.mark.parametrize("error", [Unreachable("away"), StoreError("no table"), KeyError("bug")])
def test_any_other_error_is_an_outage(error: Exception) -> None:
    class Broken(PickySink):
        def publish(self, _: Sequence[Record]) -> None:
            raise error

    with pytest.raises(type(error)):
        publish(Broken(large), [record(1)])  # type: ignore[arg-type]


# The embedded sink.


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    opened = open_sink(Settings(sink=f"sqlite:///{tmp_path / 'results.db'}"))
    yield opened
    opened.close()


def ids(sink: Sink) -> list[str]:
    return [it.task_id for it in sink.follow(None, "beginning").poll(1_000, 0)]


def test_what_sqlite_refuses_of_a_row_holds_up_nothing(sink: Sink, tmp_path: Path) -> None:
    refuse_in_sqlite(tmp_path / "results.db", "records", "NEW.task_id = 't4'")
    refused = publish(sink, [record(number) for number in range(10)])
    assert [each.record.task_id for each in refused] == ["t4"]
    assert "refused by a trigger" in refused[0].reason
    assert ids(sink) == [f"t{number}" for number in range(10) if number != 4]


def test_an_id_that_sqlite_cannot_take_holds_up_nothing(sink: Sink) -> None:
    bad: Any = OutboxRecord(9, None, record(9).payload)  # type: ignore[arg-type]
    refused = publish(sink, [record(1), bad, record(2)])
    assert [each.record.number for each in refused] == [9]
    assert ids(sink) == ["t1", "t2"]
    with pytest.raises(RecordsRefused, match="surrogates"):
        sink.publish([Record("\ud800", b"{}")])


def test_a_table_that_is_gone_is_none_of_this(sink: Sink, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "results.db")
    db.execute("ALTER TABLE records RENAME TO gone")
    db.close()
    with pytest.raises(StoreError, match="no such table: records"):
        publish(sink, [record(1)])
