"""Pages of an archive: bounded in bytes, whatever the record sizes, and complete."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import orjson
import pytest

from agentpipe.core import caps
from agentpipe.core.result import Result
from agentpipe.sinks.base import Query, Record
from agentpipe.sinks.sqlite import SqliteSink
from agentpipe.sinks.sqlite.layout import PAGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

LARGE = PAGE_BYTES // 3
# Large and small records, so that pages end within and between them.
SIZES = [LARGE, 10, LARGE, LARGE, LARGE, 10, 10, LARGE, *([10] * 300), LARGE]


def record(number: int, size: int) -> Record:
    result = Result(task_id=f"v2/{number}", run="v2", result="x" * size)
    return Record(result.task_id, orjson.dumps(result.to_dict()))


@pytest.fixture
def sink(tmp_path: Path) -> SqliteSink:
    made = SqliteSink(f"sqlite:///{tmp_path}/results.db")
    for number, size in enumerate(SIZES):
        made.publish([record(number, size)])
    return made


@pytest.mark.parametrize("query", [Query(run="v2"), Query(), Query(outcome="ok")])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_search_gives_each_record_once(sink: SqliteSink, query: Query, *, indexed: bool) -> None:
    if indexed:
        sink.index()
    with closing(sink):
        found = [each.task_id for each in sink.search(query)]
    assert found == [f"v2/{number}" for number in range(len(SIZES))]


def test_a_reader_gets_no_more_than_a_page_of_bytes(sink: SqliteSink) -> None:
    found, pages = list[str](), list[int]()
    with closing(sink), closing(sink.follow(None, "beginning")) as reader:
        while records := reader.poll(256, 0.0):
            found += [each.task_id for each in records]
            pages.append(sum(len(each.payload) for each in records))
    assert found == [f"v2/{number}" for number in range(len(SIZES))]
    assert max(pages) < PAGE_BYTES + LARGE + 1_000
    assert len(pages) > 2


def test_what_readers_would_skip_is_cut_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caps, "MAX_RECORD_BYTES", 50_000)
    with closing(open_sink_at(tmp_path)) as sink:
        sink.publish([record(1, 100_000), record(2, 10)])
        assert sink.add_new([record(3, 100_000)]) == 1
        large, small, kept = sink.search(Query(run="v2"))
    for each in (large, kept):
        assert len(each.payload) <= 50_000
        cut = orjson.loads(each.payload)
        assert cut["truncated"]["fields"] == ["result"]
        assert "MAX_RECORD_BYTES" in cut["truncated"]["remedy"]
    assert orjson.loads(small.payload)["truncated"] is None


def open_sink_at(folder: Path) -> SqliteSink:
    return SqliteSink(f"sqlite:///{folder}/results.db")
