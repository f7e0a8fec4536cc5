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


def test_a_server_is_no_archive() -> None:
    with pytest.raises(ConfigError, match="agentpipe collect"):
        Archive.open(Settings(sink="kafka://localhost:1/topic"))
