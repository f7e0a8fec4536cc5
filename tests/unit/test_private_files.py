"""A store's files belong to their owner: no other user can read them or stop a writer."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import struct
import subprocess
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.connections import sqlite
from agentpipe.connections.health import Examined
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.connections.sqlite_layout import Layout
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import open_archive, open_sink
from agentpipe.sinks.base import Record
from tests.other_user import as_other_user, needs_root, shared_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentpipe.sinks.sqlite import SqliteSink

LAYOUT = Layout(1, "things", "CREATE TABLE things (name TEXT UNIQUE)")


@pytest.fixture
def folder() -> Iterator[Path]:
    with shared_folder() as made:
        yield made


@pytest.fixture(autouse=True)
def _careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def opened(path: Path) -> Database:
    return Database(SqliteAddress(path, "normal"), LAYOUT)


def modes(folder: Path) -> dict[str, str]:
    paths = [folder, *folder.rglob("*")]
    return {str(p.relative_to(folder.parent)): oct(stat.S_IMODE(p.stat().st_mode)) for p in paths}


def used(folder: Path) -> Iterator[None]:
    """A broker and a sink with a reader, all open."""
    settings = Settings(
        broker=f"sqlite:///{folder}/home/deep/broker.db", sink=f"sqlite:///{folder}/home/sink.db"
    )
    with closing(open_store(settings)) as store, closing(open_sink(settings)) as sink:
        store.stats()
        sink.publish([Record("a", b"{}")])
        with closing(sink.follow("group", "beginning")) as reader:
            assert reader.poll(1, 1.0)
            yield


def test_what_a_store_makes_is_its_owners_alone(folder: Path) -> None:
    for _ in used(folder):
        found = modes(folder / "home")
    folders = {name for name in found if (folder / name).is_dir()}
    assert folders == {"home", "home/deep", "home/sink.db-readers"}
    names = {name.rpartition("/")[2].partition(".db")[2] for name in found}
    assert {"", "-lock", "-wal", "-shm", "-readers"} <= names
    wrong = {name: m for name, m in found.items() if m != ("0o700" if name in folders else "0o600")}
    assert {name: m for name, m in wrong.items() if (folder / name).exists()} == {}


@needs_root
def test_another_user_reads_nothing_of_a_store(folder: Path) -> None:
    def attack() -> list[str]:
        read = []
        for path in (*folder.rglob("*"), folder / "home" / "sink.db", folder / "home" / "deep"):
            with suppress(OSError):
                read.append(
                    str(list(map(str, path.iterdir())) if path.is_dir() else path.read_bytes())
                )
        return read

    for _ in used(folder):
        assert as_other_user(attack) == []


@needs_root
def test_a_reader_is_told_that_it_may_not_search_a_folder(folder: Path) -> None:
    settings = Settings(sink=f"sqlite:///{folder}/home/sink.db")
    open_sink(settings).close()

    def said() -> str:
        try:
            open_archive(settings).close()
        except Unreachable as error:
            return str(error)
        return ""

    assert "home/sink.db: [Errno 13] Permission denied" in as_other_user(said)


@needs_root
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o755])
def test_an_old_lock_that_others_can_read_is_closed_to_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.2)
    lock = folder / "a.db-lock"
    lock.touch()
    lock.chmod(mode)

    def attack() -> str:
        try:
            file = os.open(lock, os.O_RDONLY)
        except OSError:
            return "refused"
        fcntl.flock(file, fcntl.LOCK_EX)
        return "taken"

    with closing(opened(folder / "a.db")) as database:
        assert as_other_user(attack) == "refused"
        with database.write() as db:
            db.execute("INSERT INTO things VALUES ('mine')")


def test_a_store_that_is_shared_on_purpose_stays_shared(folder: Path) -> None:
    with closing(opened(folder / "a.db")):
        pass
    (folder / "a.db-lock").unlink()
    (folder / "a.db").chmod(0o660)
    with closing(opened(folder / "a.db")):
        assert modes(folder)[f"{folder.name}/a.db-lock"] == "0o660"
        assert modes(folder)[f"{folder.name}/a.db-wal"] == "0o660"


def test_an_open_store_of_old_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(opened(folder / "a.db")):
        pass
    assert caplog.text == ""
    old = folder / "b.db"
    old.touch(0o644)
    with closing(opened(old)):
        pass
    assert f"readable by every user: chmod o-rwx {old}" in caplog.text


def test_doctor_warns_of_an_open_store(folder: Path) -> None:
    url = f"sqlite:///{folder}/results.db"
    with closing(open_sink(Settings(sink=url))) as sink:
        assert isinstance(sink, Examined)
        assert _file_mode(sink) == ("ok", "0600")
        (folder / "results.db").chmod(0o644)
        assert _file_mode(sink) == ("warn", "open to every user of this machine: results.db")


def _file_mode(examined: Examined) -> tuple[str, str]:
    (finding,) = [each for each in examined.examine() if each.name == "file mode"]
    return finding.status, finding.found


@pytest.mark.parametrize("name", ["a.db-lock", "a.db-wal", "a.db-shm"])
def test_a_link_in_place_of_a_stores_file_leads_nowhere(folder: Path, name: str) -> None:
    victim = folder / "victim"
    victim.write_bytes(b"precious")
    (folder / name).symlink_to(victim)
    with pytest.raises((Unreachable, ConfigError), match=r"a\.db"):
        opened(folder / "a.db")
    assert victim.read_bytes() == b"precious"


# A stream file written by an attacker.


def forged(folder: Path, reader: str) -> SqliteSink:
    """A sink whose file says that this reader has borrowed its only record."""
    path = folder / "results.db"
    sink = open_sink(Settings(sink=f"sqlite:///{path}"))
    sink.publish([Record("a", b"{}")])
    with closing(sink.follow("group", "beginning")), closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO loans VALUES ('group', 1, 1, ?)", (reader,))
        db.execute("UPDATE groups SET next = 2")
        db.commit()
    return sink  # type: ignore[return-value]


@pytest.mark.parametrize(
    "reader",
    [
        "{folder}/victim",
        "../victim",
        "./../victim",
        "",
        ".",
        "..",
        "A" * 32,
        "a" * 31,
        "a" * 33,
        f"{'a' * 32}\n",
        "../aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "a\0b",
        "٣" * 32,
    ],
)
def test_no_name_in_a_results_file_becomes_a_path(folder: Path, reader: str) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    with closing(forged(folder, reader.format(folder=folder))) as sink:
        kept = {path: path.is_dir() for path in folder.rglob("*")}
        with closing(sink.follow("group", "beginning")) as reading:
            assert [record.task_id for record in reading.poll(1, 1.0)] == ["a"]
        assert victim.read_text() == "precious"
        assert {path: path.is_dir() for path in folder.rglob("*")} == kept


def test_a_journal_that_names_a_file_to_delete_is_not_played_back(folder: Path) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    with closing(opened(folder / "a.db")):
        pass
    (folder / "a.db-journal").write_bytes(_journal(str(victim).encode()))
    with pytest.raises(ConfigError, match=r"a\.db-journal names a file to delete"):
        opened(folder / "a.db")
    assert victim.read_text() == "precious"


@pytest.mark.process
def test_who_is_killed_while_a_store_is_made_holds_up_no_other(folder: Path) -> None:
    """The first transaction's journal is left behind, with the file unchanged."""
    making = (
        "import os, signal, sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        "db.execute('BEGIN IMMEDIATE'); db.execute('PRAGMA user_version = 7');"
        "db.execute('CREATE TABLE half(made)'); db.execute('PRAGMA cache_spill = 1');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", making, folder / "a.db"], check=False)
    assert (folder / "a.db-journal").exists()
    with closing(opened(folder / "a.db")):
        assert not (folder / "a.db-journal").exists()


def _journal(victim: bytes) -> bytes:
    """A hot journal without pages, of a multi-file transaction: https://sqlite.org/fileformat"""
    head = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + struct.pack(">IIIII", 0, 0, 1, 512, 4096)
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + victim
    return head.ljust(512, b"\0") + tail + struct.pack(">II", len(victim), sum(victim)) + head[:8]


def test_a_link_in_place_of_a_readers_file_is_not_followed(folder: Path) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    with closing(forged(folder, "a" * 32)) as sink:
        (folder / "results.db-readers" / ("a" * 32)).symlink_to(victim)
        with closing(sink.follow("group", "beginning")) as reading:
            assert [record.task_id for record in reading.poll(1, 1.0)] == ["a"]
    assert victim.read_text() == "precious"


def test_a_link_in_place_of_the_readers_folder_is_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "results.db-readers").symlink_to("elsewhere")
    with (
        closing(open_sink(Settings(sink=f"sqlite:///{folder}/results.db"))) as sink,
        pytest.raises(Unreachable, match=r"results\.db-readers"),
    ):
        sink.follow("group", "beginning")
    assert list((folder / "elsewhere").iterdir()) == []


def test_a_loan_of_records_that_do_not_exist_ends_no_reader(folder: Path) -> None:
    with closing(forged(folder, "a" * 32)) as sink:
        with closing(sqlite3.connect(folder / "results.db")) as db:
            db.execute("UPDATE loans SET first = 10, last = 20")
            db.commit()
        with closing(sink.follow("group", "beginning")) as reading:
            sink.publish([Record("b", b"{}")])
            assert [record.task_id for record in reading.poll(1, 1.0)] == ["b"]


def test_a_view_in_place_of_a_table_is_refused(folder: Path) -> None:
    with closing(opened(folder / "a.db")) as database, database.write() as db:
        db.execute("CREATE VIEW endless AS SELECT 1")
    with pytest.raises(ConfigError, match=r"holds views \(endless\)"):
        opened(folder / "a.db")
