"""Trimming removes what is requested, but nothing that a group still has to read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.archive import Archive
from agentpipe.cli import archive as cli_archive
from agentpipe.cli import main
from agentpipe.core.groups import GroupEnd
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.timestamps import utc
from agentpipe.settings import Settings
from agentpipe.sinks.base import Record
from agentpipe.sinks.sqlite import SqliteSink

if TYPE_CHECKING:
    from pathlib import Path

NOON = 1_700_000_000.0


@pytest.fixture(autouse=True)
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTPIPE_BROKER", raising=False)
    monkeypatch.setenv("AGENTPIPE_SINK", "sqlite:///results.db")
    publish(*(result(number) for number in range(1_200)))
    return "sqlite:///results.db"


def result(number: int) -> Result:
    run = "v1" if number % 2 else "v2"
    return Result(
        task_id=f"{run}/{number}", run=run, result="x" * 500, finished_at=utc(NOON + number)
    )


def publish(*results: Result) -> None:
    with closing(SqliteSink("sqlite:///results.db")) as sink:
        sink.publish([Record(each.task_id, each.encode(Redactor([]))) for each in results])


def copied(*results: Result) -> int:
    """How many of these results a copy of another stream adds."""
    with closing(SqliteSink("sqlite:///results.db")) as sink:
        return sink.add_new([Record(it.task_id, it.encode(Redactor([]))) for it in results])


def archive(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["archive", *arguments, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def kept() -> list[str]:
    with Archive.open(Settings(sink="sqlite:///results.db")) as opened:
        return [each.task_id for each in opened.results()]


def test_a_run_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    assert archive(capsys, "trim", "--run", "v1", "--yes") == {"removed": 600, "kept": 0}
    assert {each.partition("/")[0] for each in kept()} == {"v2"}
    assert archive(capsys, "trim", "--run", "v1", "--yes") == {"removed": 0, "kept": 0}


def test_results_that_finished_before_a_time_are_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moment = utc(NOON + 1_000)
    assert archive(capsys, "trim", "--before", moment, "--yes")["removed"] == 1_000
    assert len(kept()) == 200
    assert archive(capsys, "trim", "--before", moment, "--run", "v1", "--yes")["removed"] == 0
    assert archive(capsys, "trim", "--before", "1d", "--yes")["removed"] == 200


def test_what_a_group_has_not_read_stays(capsys: pytest.CaptureFixture[str], url: str) -> None:
    with closing(SqliteSink(url)) as sink, closing(sink.follow("trainer", "beginning")) as reader:
        polled = reader.poll(100, 0)
        reader.commit(polled[49])
        assert archive(capsys, "info")["unread"] == {"trainer": 1_150}
        assert archive(capsys, "trim", "--before", "1d", "--yes") == {"removed": 50, "kept": 1_150}
        assert [each.task_id for each in reader.poll(1, 0)] == ["v2/100"]
    assert archive(capsys, "trim", "--before", "1d", "--unread", "--yes")["removed"] == 1_150


def test_what_a_group_that_came_during_the_question_has_not_read_stays(
    capsys: pytest.CaptureFixture[str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins_to_read(*_: object) -> None:
        with closing(SqliteSink(url)) as sink, closing(sink.follow("trainer", "beginning")) as new:
            new.commit(new.poll(10, 0)[-1])

    monkeypatch.setattr(cli_archive, "confirm", begins_to_read)
    assert archive(capsys, "trim", "--before", "1d") == {"removed": 10, "kept": 1_190}
    assert len(kept()) == 1_190


def test_the_end_of_a_group_goes_with_its_last_result(capsys: pytest.CaptureFixture[str]) -> None:
    ids = ("v3/p/0", "v3/p/1")
    members = [
        Result(task_id=each, run="v3", group_id="v3/p", finished_at=utc(NOON + number))
        for number, each in enumerate(ids)
    ]
    publish(*members)
    with closing(SqliteSink("sqlite:///results.db")) as sink:
        sink.publish([Record("v3/p", GroupEnd("v3/p", "complete", 2, ids).encode())])
    first = archive(capsys, "trim", "--run", "v3", "--before", utc(NOON + 1), "--yes")
    assert first == {"removed": 1, "kept": 0}
    assert archive(capsys, "trim", "--run", "v1", "--yes")["removed"] == 600
    assert archive(capsys, "trim", "--run", "v3", "--yes") == {"removed": 2, "kept": 0}
    assert archive(capsys, "info")["results"] == 600


def test_the_end_of_a_group_whose_results_have_not_arrived_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing(SqliteSink("sqlite:///results.db")) as sink:
        sink.publish([Record("v3/p", GroupEnd("v3/p", "complete", 1, ("v3/p/0",)).encode())])
    assert archive(capsys, "trim", "--before", "1d", "--yes")["removed"] == 1_200
    assert archive(capsys, "info")["results"] == 1
    assert archive(capsys, "trim", "--run", "v3", "--yes") == {"removed": 1, "kept": 0}


def test_a_result_that_is_published_again_after_it_was_removed_does_not_come_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A worker that is killed between publishing and dropping it leaves it in the outbox."""
    archive(capsys, "trim", "--run", "v1", "--yes")
    publish(*(result(number) for number in range(1_201)))
    assert len(kept()) == 601
    again = replace(result(1), submitted_at=utc(NOON))  # The same id, submitted again.
    publish(again)
    assert len(kept()) == 602


def test_a_second_result_of_a_submission_that_was_removed_does_not_come_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its task ran twice: streams would return it as new."""
    archive(capsys, "trim", "--run", "v1", "--yes")
    publish(replace(result(1), result="again"))
    assert len(kept()) == 600


def test_another_verdict_is_stored_after_the_first_was_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = (
        Result(task_id="v3/a", run="v3", submitted_at="then", rescored_of="v2/a", reward=reward)
        for reward in (0.0, 1.0)
    )
    publish(first)
    assert archive(capsys, "trim", "--run", "v3", "--yes")["removed"] == 1
    assert copied(first) == 0
    assert copied(second) == 1
    publish(replace(second, reward=0.5))
    with Archive.open(Settings(sink="sqlite:///results.db")) as opened:
        assert [each.reward for each in opened.results_of("v3/a")] == [1.0]


@pytest.mark.parametrize("is_of_an_earlier_version", [True, False])
def test_a_verdict_that_is_judged_again_after_it_was_removed_is_stored(
    capsys: pytest.CaptureFixture[str], *, is_of_an_earlier_version: bool
) -> None:
    verdict = Result(task_id="v3/a", run="v3", submitted_at="then", rescored_of="v2/a", reward=1.0)
    publish(verdict)
    with closing(sqlite3.connect("results.db")) as db, db:
        (digest,) = db.execute("SELECT digest FROM records WHERE task_id = 'v3/a'").fetchone()
    assert archive(capsys, "trim", "--run", "v3", "--yes")["removed"] == 1
    if is_of_an_earlier_version:  # Which knew a removed verdict by its submission.
        with closing(sqlite3.connect("results.db")) as db, db:
            db.execute("UPDATE trimmed SET digest = ? WHERE task_id = 'v3/a'", (digest,))
    publish(verdict)
    publish(verdict)
    assert kept().count("v3/a") == 1


def test_a_position_is_never_used_again(capsys: pytest.CaptureFixture[str], url: str) -> None:
    with closing(SqliteSink(url)) as sink, closing(sink.follow("trainer", "now")) as reader:
        archive(capsys, "trim", "--before", "1d", "--unread", "--yes")
        sink.publish([Record("new", b"{}")])
        assert [each.task_id for each in reader.poll(10, 0)] == ["new"]


def test_vacuum_gives_space_back_beside_a_reader(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    archive(capsys, "trim", "--run", "v1", "--yes")
    before = archive(capsys, "info")
    with Archive.open(Settings(sink=url)) as opened:
        found = opened.results()
        next(found)
        said = archive(capsys, "vacuum", "--yes")
        assert len(list(found)) == 599
    assert before["free_bytes"] > 100_000
    assert said["after_bytes"] < said["before_bytes"] - 100_000
    after = archive(capsys, "info")
    assert (after["results"], after["free_bytes"], after["unindexed"]) == (600, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["trim", "--yes"], "say what to remove"),
        (["trim", "--before", "soon", "--yes"], "write an age"),
        (["trim", "--run", "../x", "--yes"], "a run's name"),
        (["trim", "--run", "v1"], "confirm with --yes"),
        (["vacuum"], "confirm with --yes"),
        (["info", "--sink", "kafka://localhost:1/topic"], "not an archive"),
    ],
)
def test_a_mistake_is_named_and_removes_nothing(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["archive", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert what in capsys.readouterr().err
    assert len(kept()) == 1_200


def test_an_archive_that_does_not_exist_is_not_created(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.db"
    assert main(["archive", "info", "--sink", f"sqlite:///{missing}"]) == 1
    assert f"there is no file {missing}" in capsys.readouterr().err
    assert not missing.exists()
