"""The archive finds results by their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.archive import Archive
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    from pathlib import Path


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


def test_results_that_name_no_submission_are_all_stored(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, *(Result(task_id="a", result=each) for each in "12"))
    with Archive.open(settings) as archive:
        assert [each.result for each in archive.results_of("a")] == ["1", "2"]


def test_a_server_is_no_archive() -> None:
    with pytest.raises(ConfigError, match="agentpipe collect"):
        Archive.open(Settings(sink="kafka://localhost:1/topic"))
