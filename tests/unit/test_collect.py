"""A collector keeps each submission of a stream once, and resumes where it stopped."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.archive import Archive
from agentpipe.archive.collect import Collected, Collector
from agentpipe.cli import main
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks.base import Record
from agentpipe.sinks.sqlite import SqliteSink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AGENTPIPE_SINK", "AGENTPIPE_BROKER", "AGENT_COLLECTION_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


def record(task_id: str, **fields: Any) -> Record:
    fields = {"submitted_at": "2026-01-31T08:00:00Z", **fields}
    return Record(task_id, Result(task_id=task_id, **fields).encode(Redactor([])))


def publish(*records: Record) -> None:
    with closing(SqliteSink("sqlite:///stream.db")) as sink:
        sink.publish(records)


def publish_as_a_server(*records: Record) -> None:
    """Store them as they are, repeats included: an embedded sink leaves those out."""
    rows = [(each.task_id, b"%d" % n, each.payload) for n, each in enumerate(records)]
    publish()
    with closing(sqlite3.connect("stream.db")) as db, db:
        db.executemany(
            "INSERT INTO records (task_id, digest, body, published_at) VALUES (?, ?, ?, 5.0)", rows
        )


def collect(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    arguments = ["collect", "--sink", "sqlite:///stream.db", "--timeout", "0", "--json"]
    to = () if "--to" in options else ("--to", "kept.db")
    assert main([*arguments, *to, *options]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def kept(name: str = "kept.db") -> list[str]:
    with Archive.open(Settings(sink=f"sqlite:///{name}")) as archive:
        return [each.task_id for each in archive.results()]


def test_a_second_collection_adds_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    publish(*(record(f"v1/{number}") for number in range(700)))
    assert collect(capsys)["collected"] == 700
    publish(record("v1/late"))
    said = collect(capsys)
    assert (said["collected"], said["repeated"], said["skipped"]) == (1, 0, 0)
    assert said["path"].endswith("/kept.db")
    assert kept() == [*(f"v1/{number}" for number in range(700)), "v1/late"]


def test_what_comes_again_is_kept_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Also a task that ran twice: two Results, but one submission."""
    first = record("a", outcome="ok")
    again, later = record("a", outcome="limit"), record("a", submitted_at="2026-02-01T08:00:00Z")
    publish_as_a_server(first, again, later)
    said = collect(capsys)
    assert (said["collected"], said["repeated"]) == (2, 1)
    said = collect(capsys, "--group", "from-the-start")
    assert (said["collected"], said["repeated"]) == (0, 3)
    with Archive.open(Settings(sink="sqlite:///kept.db")) as archive:
        assert [each.outcome for each in archive.results()] == ["ok", "ok"]


def test_what_is_no_result_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    publish(Record("x", b"{}"), record("a"), Record("y", b"\xff"))
    said = collect(capsys)
    assert (said["collected"], said["skipped"]) == (1, 2)


def test_a_new_archive_begins_anew_and_a_moved_one_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    publish(record("a"))
    assert collect(capsys)["collected"] == 1
    for end in ("", "-wal", "-shm"):
        if (path := tmp_path / f"kept.db{end}").exists():
            path.rename(tmp_path / f"moved.db{end}")
    assert collect(capsys)["collected"] == 1
    said = collect(capsys, "--to", "moved.db")
    assert (said["collected"], said["repeated"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--to", "stream.db"], "is the sink itself"),
        (["--to", "tasks.db", "--broker", "sqlite:///tasks.db"], "is the broker's file"),
        (["--timeout", "-1"], "expected seconds"),
        (["--follow", "--timeout", "1"], "not allowed with"),
    ],
)
def test_a_mistake_is_named(
    options: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(record("a"))
    try:
        code = main(["collect", "--sink", "sqlite:///stream.db", *options])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert (code, what in capsys.readouterr().err) == (2, True)


class Steps:
    """A reader and an archive that record their steps, and fail on demand."""

    def __init__(self, *polls: list[Record] | Unreachable) -> None:
        self.polls = list(polls)
        self.steps: list[str] = []
        self.fails = False

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        assert limit
        assert timeout_s >= 0
        found = self.polls.pop(0) if self.polls else []
        if isinstance(found, Unreachable):
            raise found
        return found

    def commit(self, record: Record) -> None:
        self.steps.append(f"commit {record.task_id}")

    def recall(self) -> list[str]:
        return []

    def close(self) -> None:
        """Do nothing."""

    def add_new(self, records: Sequence[Record]) -> int:
        if self.fails:
            raise Unreachable("the disk is full")
        self.steps += [f"keep {each.task_id}" for each in records]
        return len(records)

    def reader_group(self) -> str:
        return "g"

    def index(self) -> None:
        """Do nothing."""


def test_the_position_moves_after_the_archive() -> None:
    steps = Steps([record("a"), record("b")], [record("c")])
    done = Collector(steps, steps).run(0.0, lambda _: None)
    assert done == Collected(collected=3)
    assert steps.steps == ["keep a", "keep b", "keep c", "commit c"]


def test_an_archive_that_fails_moves_no_position() -> None:
    steps = Steps([record("a")])
    steps.fails = True
    with pytest.raises(Unreachable, match="disk"):
        Collector(steps, steps).run(0.0, lambda _: None)
    assert steps.steps == []


def test_an_outage_is_waited_for_and_is_the_end_only_if_it_lasts() -> None:
    steps = Steps(Unreachable("gone"), [record("a")])
    collector = Collector(steps, steps)
    assert collector.run(60.0, lambda _: collector.stop()).collected == 1
    steps = Steps(*[Unreachable("gone")] * 100)
    with pytest.raises(Unreachable, match="gone"):
        Collector(steps, steps).run(0.0, lambda _: None)


def test_an_archive_is_a_private_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(record("a"))
    collect(capsys)
    assert (tmp_path / "kept.db").stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect("kept.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
