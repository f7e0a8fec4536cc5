"""A search finds the same with full, partial and no indices, and needs no write permission."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.archive import Archive
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.timestamps import utc
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks.base import Record
from agentpipe.sinks.sqlite import SqliteSink, facts
from agentpipe.sinks.sqlite.archive import SqliteArchive
from agentpipe.sinks.sqlite.facts import Facts, facts_of
from agentpipe.sinks.sqlite.layout import LAYOUT
from tests.other_user import as_other_user, needs_root, shared_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The layout of earlier versions.
LAYOUT_2 = """
CREATE TABLE records (
    position INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, digest BLOB NOT NULL,
    body BLOB NOT NULL, published_at REAL NOT NULL, UNIQUE (task_id, digest));
CREATE INDEX records_by_time ON records (published_at);
CREATE TABLE groups (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE loans (
    owner TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reader TEXT NOT NULL);
CREATE INDEX loans_by_owner ON loans (owner);
PRAGMA journal_mode = WAL;
PRAGMA user_version = 2;
"""
ODD = (
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b'{"task_id": 3, "run": 7, "outcome": ["ok"], "finished_at": "yesterday"}',
    b'{"x":1,"task_id":"v1/a"',
    b"[" * 100_000,
)


def result(number: int) -> Result:
    """A result in runs of 100 and groups of 4, one per second."""
    run = f"v{number // 100}"
    return Result(
        task_id=f"{run}/{number:05}",
        run=run,
        group_id=f"{run}/g{number // 4}",
        collection="crew" if number % 3 else "other",
        agent=f"crew_{number % 5}",
        outcome="limit" if number % 7 == 0 else "ok",
        trace=[{"type": "llm", "task_id": "nested", "run": "v9"}],
        usage={"task_id": "nested", "run": "v9"},
        finished_at=utc(1_700_000_000 + number),
    )


def records(first: int, last: int) -> list[Record]:
    results = [result(number) for number in range(first, last)]
    return [Record(each.task_id, each.encode(Redactor([]))) for each in results]


def sink_of(path: Path) -> SqliteSink:
    return SqliteSink(f"sqlite:///{path}")


def write_layout_2(path: Path, count: int, odd: tuple[object, ...] = ODD) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(LAYOUT_2)
        rows: list[tuple[object, ...]] = [
            (each.task_id, b"%d" % n, each.payload) for n, each in enumerate(records(0, count))
        ]
        rows += [("odd", b"odd %d" % n, body) for n, body in enumerate(odd)]
        db.executemany(
            "INSERT INTO records (task_id, digest, body, published_at) VALUES (?, ?, ?, 5.0)", rows
        )
        db.commit()


def ids(archive: Archive, **query: object) -> list[str]:
    return [found.task_id for found in archive.results(**query)]  # type: ignore[arg-type]


def expected(count: int, **query: object) -> list[str]:
    """The expected ids, found by checking each result."""
    results = [result(number) for number in range(count)]
    names = {"group": "group_id"}
    return [
        each.task_id
        for each in results
        if all(getattr(each, names.get(name, name)) == value for name, value in query.items())
    ]


QUERIES: tuple[dict[str, object], ...] = (
    {},
    {"run": "v2"},
    {"run": "v2", "outcome": "limit"},
    {"run": "v"},
    {"group": "v1/g30"},
    {"outcome": "limit"},
    {"agent": "crew_3", "collection": "crew"},
    {"run": "v9"},
)


def index(path: Path, steps: int) -> None:
    with closing(Database(SqliteAddress(path), LAYOUT)) as database:
        for _ in range(steps):
            facts.index_next(database)


def mark_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT position FROM marks WHERE name = 'indexed'").fetchone()
        return int(row[0]) if row else 0


@pytest.fixture(params=["nothing indexed", "some", "all"])
def archive(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Archive]:
    path = tmp_path / "results.db"
    monkeypatch.setattr(facts, "CHUNK", 150)
    with closing(sink_of(path)) as sink:
        sink.publish(records(0, 400))
    index(path, {"nothing indexed": 0, "some": 1, "all": 9}[request.param])
    with Archive.open(Settings(sink=f"sqlite:///{path}")) as opened:
        yield opened


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_search_finds_the_same_however_much_is_indexed(
    archive: Archive, query: dict[str, object]
) -> None:
    assert ids(archive, **query) == expected(400, **query)


def test_bounds_of_time_take_the_first_moment_and_leave_the_last(archive: Archive) -> None:
    start = 1_700_000_000.0
    found = ids(archive, finished_from=start + 120, finished_before=start + 123)
    assert found == ["v1/00120", "v1/00121", "v1/00122"]
    assert ids(archive, run="v0", finished_from=start + 98) == ["v0/00098", "v0/00099"]
    assert len(ids(archive, published_from=start)) == 400
    assert ids(archive, run="v0", published_before=start) == []


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_file_of_layout_2_is_searched_and_upgraded(
    tmp_path: Path, query: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.db"
    write_layout_2(path, 400)
    settings = Settings(sink=f"sqlite:///{path}")
    with Archive.open(settings) as archive:
        assert ids(archive, **query) == expected(400, **query)
    monkeypatch.setattr(facts, "FEW", 10)
    monkeypatch.setattr("agentpipe.sinks.sqlite.archive.FEW", 10)
    with Archive.open(settings) as archive:
        assert ids(archive, outcome="limit") == expected(400, outcome="limit")
        assert mark_of(path) == 400 + len(ODD)
        assert ids(archive, **query) == expected(400, **query)


def test_a_run_is_found_by_its_ids_where_much_is_not_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.db"
    write_layout_2(path, 400)
    monkeypatch.setattr("agentpipe.sinks.sqlite.searching.FEW", 10)
    with Archive.open(Settings(sink=f"sqlite:///{path}")) as archive:
        assert ids(archive, run="v2") == expected(400, run="v2")
        assert ids(archive, run="v2", agent="crew_1") == expected(400, run="v2", agent="crew_1")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)  # Not upgraded.


def test_rows_of_any_type_break_no_search_and_no_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    write_layout_2(path, 20, (*ODD, "text", 7, 2.5, "[1]"))
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE records SET task_id = CAST(x'ff00' AS TEXT) WHERE body = 7")
        db.execute("UPDATE records SET published_at = 'never' WHERE body = 2.5")
        db.commit()
    index(path, 9)
    with Archive.open(Settings(sink=f"sqlite:///{path}")) as archive:
        assert ids(archive) == expected(20)
        assert ids(archive, outcome="limit", finished_from=0) == expected(20, outcome="limit")


def test_an_upgraded_file_takes_records_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    with closing(sink_of(path)) as sink:
        sink.publish(records(0, 10))
    index(path, 1)
    late = records(10, 11)[0]
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO records (task_id, digest, body, published_at) VALUES (?, x'', ?, 5.0)",
            (late.task_id, late.payload),
        )
        db.commit()
    with Archive.open(Settings(sink=f"sqlite:///{path}")) as archive:
        assert ids(archive, run="v0") == expected(11)


def test_a_sink_indexes_while_it_has_little_to_do(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    with closing(sink_of(path)) as sink:
        sink.publish(records(0, 1_200))
        assert mark_of(path) == 0
        sink.publish(records(1_200, 1_201))
        assert 0 < mark_of(path) < 1_201  # Not all at once: runs in this process would wait.
        for number in range(1_201, 1_215):
            sink.publish(records(number, number + 1))
        assert mark_of(path) > 1_201


def test_facts_are_those_of_the_result_itself() -> None:
    encoded = result(7).encode(Redactor([]))
    found = Facts("v0", "v0/g1", "crew", "crew_2", "limit", 1_700_000_007.0)
    assert facts_of(encoded) == found
    # If a nested object has the last such key, the tail of the JSON is not the result's own.
    record = json.loads(encoded)
    reordered = {"task_id": record.pop("task_id"), **record}
    assert facts_of(json.dumps(reordered, separators=(",", ":")).encode()) == found
    nested = {**record, "task": {"a": 1, "task_id": "x", "run": "v8"}}
    assert facts_of(json.dumps(nested, separators=(",", ":")).encode()) == found


def test_an_archive_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.db"
    with pytest.raises(ConfigError, match="there is no file"):
        Archive.open(Settings(sink=f"sqlite:///{path}"))
    assert not path.parent.exists()


def test_a_file_whose_tables_are_not_made_yet_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    path.touch(mode=0o600)
    with Archive.open(Settings(sink=f"sqlite:///{path}")) as archive:
        assert ids(archive, outcome="ok") == []
        with closing(sink_of(path)) as sink:
            sink.publish(records(0, 10))
        assert ids(archive, outcome="ok") == expected(10, outcome="ok")


def test_an_archive_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
        db.commit()
    with pytest.raises(ConfigError, match="not an archive"):
        Archive.open(Settings(sink=f"sqlite:///{path}"))


def test_a_search_goes_on_beside_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    with closing(sink_of(path)) as sink:
        sink.publish(records(0, 600))
        with Archive.open(Settings(sink=f"sqlite:///{path}")) as archive:
            found = archive.results(agent="crew_1")
            first = next(found)
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("DELETE FROM records WHERE position > 300")
            sink.publish(records(1_000, 1_001))
            rest = [each.task_id for each in found]
    assert [first.task_id, *rest[:3]] == expected(20, agent="crew_1")


@needs_root
def test_a_user_who_may_only_read_finds_all() -> None:
    with shared_folder() as folder:
        path = folder / "results.db"
        write_layout_2(path, 50)
        path.chmod(0o444)

        def search() -> list[str]:
            with Archive(SqliteArchive(f"sqlite:///{path}")) as archive:
                return ids(archive, outcome="limit")

        assert as_other_user(search) == expected(50, outcome="limit")
        assert [each.name for each in folder.iterdir()] == ["results.db"]
