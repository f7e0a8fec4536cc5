"""A database's URL, file and transactions, and the errors that it reports."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from agentpipe.connections import wal
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress, parse_url
from agentpipe.connections.sqlite_layout import Layout
from agentpipe.connections.sqlite_snapshots import Snapshots
from agentpipe.errors import ConfigError, StoreError, Unreachable
from tests.support import wait_until

SCHEMA = "CREATE TABLE things (name TEXT UNIQUE);\nCREATE TABLE others (x INTEGER)"


def opened(path: Path, synchronous: str = "normal", version: int = 1) -> Database:
    return Database(SqliteAddress(path, synchronous), Layout(version, "things", SCHEMA))


def names(database: Database) -> list[str]:
    with database.read() as db:
        return [row[0] for row in db.execute("SELECT name FROM things ORDER BY name")]


@pytest.mark.parametrize(
    ("url", "path", "synchronous"),
    [
        ("sqlite:////tmp/a.db", "/tmp/a.db", "full"),
        ("sqlite:////tmp/a.db?synchronous=normal", "/tmp/a.db", "normal"),
        ("sqlite:////tmp/a.db?synchronous=FULL", "/tmp/a.db", "full"),
        ("sqlite:////tmp/a%20b%3F%23.db", "/tmp/a b?#.db", "full"),
    ],
)
def test_a_url_names_a_file(url: str, path: str, synchronous: str) -> None:
    assert parse_url(url) == SqliteAddress(Path(path), synchronous)


def test_a_relative_file_is_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("sqlite:///sub/a.db").path == tmp_path / "sub" / "a.db"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sqlite://a.db", "write sqlite:///file.db"),
        ("sqlite:///", "write sqlite:///file.db"),
        ("sqlite:", "write sqlite:///file.db"),
        ("sqlite:///a%00b.db", "write sqlite:///file.db"),
        ("sqlite:///a.db?synchronus=full", "did you mean 'synchronous'"),
        ("sqlite:///a.db?timeout=1", "choose from synchronous"),
        ("sqlite:///a.db?synchronous=off", "synchronous is full or normal, not 'off'"),
        ("sqlite:///a.db?synchronous=", "synchronous is full or normal, not ''"),
    ],
)
def test_a_url_that_cannot_work_is_told_how_it_is_written(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_url(url)


def test_folders_and_tables_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.db"
    for name in "ab":
        database = opened(path)
        with database.write() as db:
            db.execute("INSERT INTO things VALUES (?)", (name,))
        database.close()
    database = opened(path)
    assert names(database) == ["a", "b"]
    database.close()


def test_another_layout_is_refused_with_both_numbers(tmp_path: Path) -> None:
    opened(tmp_path / "a.db", version=2).close()
    with pytest.raises(ConfigError, match=r"a.db has layout 2, this agentpipe knows 1: use the"):
        opened(tmp_path / "a.db", version=1)


def test_a_file_of_an_earlier_layout_is_brought_up_to_date_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    old = opened(path)
    with old.write() as db:
        db.execute("INSERT INTO things VALUES ('kept')")
    upgrades = {
        1: "ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7",
        2: "CREATE TABLE more (x INTEGER);\nINSERT INTO more VALUES (1)",
    }
    for _ in range(2):
        new = Database(SqliteAddress(path, "normal"), Layout(3, "things", SCHEMA, upgrades))
        with new.read() as db:
            assert db.execute("SELECT name, size FROM things").fetchall() == [("kept", 7)]
            assert db.execute("SELECT x FROM more").fetchall() == [(1,)]
        new.close()
    with old.write() as db:  # The earlier version continues with its open file.
        db.execute("INSERT INTO things (name) VALUES ('late')")
    assert names(old) == ["kept", "late"]
    old.close()


def test_a_layout_without_an_upgrade_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "a.db").close()
    with pytest.raises(ConfigError, match="has layout 1, this agentpipe knows 3"):
        Database(SqliteAddress(tmp_path / "a.db"), Layout(3, "things", SCHEMA, {2: "SELECT 1"}))


def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigError, match=r"a.db holds other tables \(theirs\): .* a file each"):
        opened(path)
    opened(tmp_path / "b.db").close()
    with pytest.raises(ConfigError, match=r"holds other tables \(others, things\)"):
        Database(SqliteAddress(tmp_path / "b.db"), Layout(2, "results", "CREATE TABLE results (x)"))


def test_a_file_that_has_lost_its_main_table_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    opened(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE things")
    with pytest.raises(Unreachable, match=r"a.db has lost its table things: restore"):
        opened(path)
    with pytest.raises(Unreachable, match=r"a.db has lost its table things: restore"):
        Snapshots(path, Layout(1, "things", SCHEMA))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_is_noticed(tmp_path: Path, *, replaced: bool) -> None:
    path = tmp_path / "a.db"
    database = opened(path)
    for file in tmp_path.iterdir():
        file.unlink()
    if replaced:
        opened(path).close()
    with pytest.raises(Unreachable, match="was removed or replaced"), database.write():
        pass
    with pytest.raises(Unreachable, match="was removed or replaced"), database.read():
        pass
    database.close()


def test_what_is_no_database_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("This is a text, and a long one at that. " * 100)
    with pytest.raises(ConfigError, match=r"notes.txt is not an SQLite database: name another"):
        opened(tmp_path / "notes.txt")


def test_a_folder_or_a_file_in_the_way_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="cannot use"):
        opened(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match="cannot use"):
        opened(tmp_path / "file" / "a.db")


def test_a_block_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    database = opened(tmp_path / "a.db")

    def fail() -> None:
        with database.write() as db:
            db.execute("INSERT INTO things VALUES ('a')")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert names(database) == []
    database.close()


def test_a_commit_that_fails_leaves_a_database_that_works(tmp_path: Path) -> None:
    schema = (
        SCHEMA + ";\nCREATE TABLE parents (id INTEGER PRIMARY KEY);\nCREATE TABLE children"
        " (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    database = Database(SqliteAddress(tmp_path / "a.db", "normal"), Layout(1, "things", schema))

    def orphan() -> None:
        with database.write() as db:
            db.rollback()
            db.execute("PRAGMA foreign_keys = ON")  # Only works outside a transaction.
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO children VALUES (7)")

    with pytest.raises(StoreError, match="FOREIGN KEY"):
        orphan()
    with database.write() as db:
        db.execute("INSERT INTO things VALUES ('a')")
    assert names(database) == ["a"]
    database.close()


def test_reads_in_one_block_see_one_moment(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
    with one.read() as db:
        before = db.execute("SELECT count(*) FROM things").fetchone()
        with two.write() as other:
            other.execute("INSERT INTO things VALUES ('a')")
        assert db.execute("SELECT count(*) FROM things").fetchone() == before
    assert names(one) == ["a"]
    one.close()
    two.close()


def test_writers_take_turns(tmp_path: Path) -> None:
    databases = [opened(tmp_path / "a.db") for _ in range(4)]

    def count_up(database: Database) -> None:
        for _ in range(50):
            with database.write() as db:
                (found,) = db.execute("SELECT coalesce(max(x), 0) FROM others").fetchone()
                db.execute("INSERT INTO others VALUES (?)", (found + 1,))

    threads = [threading.Thread(target=count_up, args=(each,)) for each in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    with databases[0].read() as db:
        assert db.execute("SELECT count(DISTINCT x), max(x) FROM others").fetchone() == (200, 200)
    for database in databases:
        database.close()


@pytest.mark.parametrize("synchronous", ["full", "normal"])
@pytest.mark.parametrize("durable", [True, False])
def test_however_durable_a_write_is_seen_at_once(
    tmp_path: Path, synchronous: str, *, durable: bool
) -> None:
    one, two = opened(tmp_path / "a.db", synchronous), opened(tmp_path / "a.db")
    with one.write(durable=durable) as db:
        db.execute("INSERT INTO things VALUES ('a')")
    assert names(two) == ["a"]
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT nonsense", "no such column: nonsense"),
        ("INSERT INTO strict VALUES (NULL)", "NOT NULL constraint failed: strict.x"),
        ("INSERT INTO things VALUES (?)", "Incorrect number of bindings"),
    ],
)
def test_an_error_that_is_no_outage_is_told_as_what_it_is(
    tmp_path: Path, statement: str, words: str
) -> None:
    database = opened(tmp_path / "a.db")
    with database.write() as db:
        db.execute("CREATE TABLE strict (x TEXT NOT NULL)")
    with pytest.raises(StoreError, match=words) as caught, database.write() as db:
        db.execute(statement)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert "cannot use" not in str(caught.value)
    with pytest.raises(StoreError, match="no such column"), database.read() as db:
        db.execute("SELECT nonsense")
    database.close()


def test_a_full_disk_is_an_outage(tmp_path: Path) -> None:
    database = opened(tmp_path / "a.db")
    with database.write() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unreachable, match="disk is full"), database.write() as db:
        db.execute("INSERT INTO things VALUES (?)", ("x" * 100_000,))
    database.close()


def test_a_lock_of_somebody_elses_tool_is_an_outage(tmp_path: Path) -> None:
    database = opened(tmp_path / "a.db")
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="is locked"), database.write(patience_s=0.1) as db:
            db.execute("SELECT 1")
    database.close()


def test_a_closed_database_says_so_and_closes_again(tmp_path: Path) -> None:
    database = opened(tmp_path / "a.db")
    database.close()
    database.close()
    with pytest.raises(Unreachable, match="closed"), database.write():
        pass
    with pytest.raises(Unreachable), database.read():
        pass


def test_the_log_is_written_back_beside_a_writer_once_there_is_much(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    database = opened(file)

    def is_larger(before: int) -> bool:
        return file.stat().st_size > before

    for expected in (False, True):
        with database.write(durable=False) as db:
            rows = [(f"{expected} {number} {'x' * 500}",) for number in range(600)]
            db.executemany("INSERT INTO things VALUES (?)", rows)
        before = file.stat().st_size
        with closing(sqlite3.connect(file, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            database.sync()
            if expected:
                wait_until(partial(is_larger, before), 10, "the log is written back")
        assert is_larger(before) is expected
    assert len(names(database)) == 1_200
    database.close()


def test_a_log_that_grows_long_is_written_back_before_its_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "LONG_PAGES", 1)
    file = tmp_path / "a.db"
    database = opened(file)
    sizes = list[int]()
    for _ in range(2):
        with database.write(durable=False) as db:
            rows = [(f"{len(sizes)} {number} {'x' * 500}",) for number in range(1_200)]
            db.executemany("INSERT INTO things VALUES (?)", rows)
        database.sync()
        sizes.append(file.stat().st_size)
        for thread in threading.enumerate():
            if thread.name == "agentpipe-write-back":
                thread.join()
    assert sizes[1] > 2_000 * 500
    database.close()


def test_a_file_that_was_removed_is_not_made_by_a_write_back(tmp_path: Path) -> None:
    database = opened(tmp_path / "a.db")
    with database.write(durable=False) as db:
        db.executemany("INSERT INTO things VALUES (?)", [(f"{number}",) for number in range(2_000)])
        for each in tmp_path.iterdir():
            each.unlink()
    database.sync()
    database.close()  # Waits for a write-back in progress.
    assert not (tmp_path / "a.db").exists()


def test_a_listener_hears_commits_and_nothing_else(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
    listener = one.listener()
    listener.wait(0)
    assert not listener.wait(0.02)
    with two.write() as db:
        db.execute("INSERT INTO things VALUES ('a')")
    assert listener.wait(10)
    with two.read() as db:
        db.execute("SELECT * FROM things")
    assert not listener.wait(0.02)
    with one.write() as db:
        db.execute("INSERT INTO things VALUES ('b')")
    assert listener.wait(10)
    listener.close()
    one.close()
    two.close()
