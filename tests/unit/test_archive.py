"""The archive finds results by their fields."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest

from agentpipe.archive import Archive
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record


def settings_with(folder: Path, *results: Result) -> Settings:
    settings = Settings(sink=f"sqlite:///{folder / 'results.db'}")
    sink = open_sink(settings)
    sink.publish([Record(each.task_id, each.encode(Redactor([]))) for each in results])
    sink.publish([Record("odd", b"{}")])
    sink.close()
    return settings


def test_results_are_found_by_run_collection_and_outcome(tmp_path: Path) -> None:
    settings = settings_with(
        tmp_path,
        Result(task_id="v1/a", run="v1", collection="crew"),
        Result(task_id="v2/a", run="v2", collection="crew"),
        Result(task_id="v2/b", run="v2", collection="crew", outcome="limit"),
    )
    with Archive.open(settings) as archive:
        assert [each.task_id for each in archive.results(run="v2")] == ["v2/a", "v2/b"]
        assert [each.task_id for each in archive.results(run="v2", outcome="ok")] == ["v2/a"]
        assert len(list(archive.results(collection="crew"))) == 3


def test_one_task_is_found_by_its_id(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, Result(task_id="v1/a", result="4"))
    with Archive.open(settings) as archive:
        found = archive.result("v1/a")
        assert found is not None
        assert found.result == "4"
        assert archive.result("v1") is None


@pytest.mark.parametrize("at_once", [True, False])
def test_of_a_submission_that_ran_twice_the_first_result_is_stored(
    tmp_path: Path, *, at_once: bool
) -> None:
    """As streams show it; a broker can run a task again that was settled, after it went back."""
    results = [
        Result(task_id="v1/a", run="v1", submitted_at=at, result=answer)
        for at, answer in (("at 1", "first"), ("at 1", "again"), ("at 2", "another"))
    ]
    for some in [results] if at_once else [[each] for each in results]:
        settings = settings_with(tmp_path, *some, Result(task_id="v1/b", submitted_at="at 1"))
    with Archive.open(settings) as archive:
        assert [each.result for each in archive.results_of("v1/a")] == ["first", "another"]
        assert len(list(archive.results(run="v1"))) == 2


def test_all_submissions_of_a_replay_count_as_one(tmp_path: Path) -> None:
    """Its id is derived from the dead letter: streams drop its second result, too."""
    replays = (
        Result(task_id="a", replay_of="b", submitted_at=at, result=answer)
        for at, answer in (("at 1", "first"), ("at 1", "again"), ("at 2", "another"))
    )
    for each in replays:
        settings = settings_with(tmp_path, each)
    with Archive.open(settings) as archive:
        assert [each.result for each in archive.results_of("a")] == ["first"]


def test_all_results_that_name_no_submission_are_of_one(tmp_path: Path) -> None:
    """As streams return them."""
    for each in "12":
        settings = settings_with(tmp_path, Result(task_id="a", result=each))
    with Archive.open(settings) as archive:
        assert [each.result for each in archive.results_of("a")] == ["1"]


def test_records_that_are_no_results_are_all_stored(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)
    others = [
        b"{}",
        b"[]",
        b"\xff",
        b'{"task_id":"odd","step":1}',
        b'{"task_id":"odd","outcome":7}',
    ]
    result = Result(task_id="odd").encode(Redactor([]))
    with closing(open_sink(settings)) as sink:
        sink.publish([Record("odd", body) for body in (*others, result, b"{}", b"[]")])
        with closing(sink.follow(None, "beginning")) as reader:
            assert [each.payload for each in reader.poll(10, 0)] == [*others, result]


@pytest.mark.parametrize("removed", [False, True])
def test_what_an_earlier_version_stored_is_not_stored_again(
    tmp_path: Path, *, removed: bool
) -> None:
    """It digested the whole Result."""
    first = Result(task_id="a", submitted_at="at 1", result="first")
    settings = settings_with(tmp_path, first)
    with closing(sqlite3.connect(tmp_path / "results.db")) as db, db:
        db.create_function("earlier", 1, lambda body: blake2b(body, digest_size=8).digest())
        db.execute("UPDATE records SET digest = earlier(body)")
        if removed:
            db.execute("INSERT INTO trimmed SELECT position, task_id, digest FROM records")
            db.execute("DELETE FROM records")
    settings_with(tmp_path, first if removed else replace(first, result="again"))
    settings_with(tmp_path, replace(first, submitted_at="at 2", result="another"))
    with Archive.open(settings) as archive:
        found = [each.result for each in archive.results_of("a")]
    assert found == (["another"] if removed else ["first", "another"])


def test_a_publish_reads_none_of_the_results_that_the_task_has(tmp_path: Path) -> None:
    """Others wait for it."""
    many = [Result(task_id="a", submitted_at=f"at {n}", result="x" * 100_000) for n in range(60)]
    settings = settings_with(tmp_path, *many)
    with closing(open_sink(settings)) as sink:
        sink.publish([])
        before = read_bytes()
        sink.publish([Record("a", replace(many[0], submitted_at="new").encode(Redactor([])))])
        assert read_bytes() - before < 1_000_000


def read_bytes() -> int:
    """What this process has read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_server_is_no_archive() -> None:
    with pytest.raises(ConfigError, match="agentpipe collect"):
        Archive.open(Settings(sink="kafka://localhost:1/topic"))
