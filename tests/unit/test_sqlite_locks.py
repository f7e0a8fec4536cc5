"""A database whose lock is held by a stopped, foreign or dead process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe.connections import sqlite
from agentpipe.connections.lock_holders import Holder, what_to_do
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.connections.sqlite_layout import Layout
from agentpipe.errors import StoreError, Unreachable
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYOUT = Layout(1, "things", "CREATE TABLE things (name TEXT UNIQUE)")
OPEN = """
import os, sys, time
from pathlib import Path
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.connections.sqlite_layout import Layout
LAYOUT = Layout(1, "things", "CREATE TABLE things (x)")
database = Database(SqliteAddress(Path(sys.argv[1])), LAYOUT)
"""
HOLD = f"""{OPEN}
with database.write() as db:
    db.execute("INSERT INTO things VALUES ('held')")
    print("in", flush=True)
    sys.stdin.read()
print("out", flush=True)
"""
FORK_AND_HOLD = f"""{OPEN}
with database.write() as db:
    if not os.fork():
        time.sleep(600)
    print("in", flush=True)
    sys.stdin.read()
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    opened = Database(SqliteAddress(tmp_path / "a.db", "normal"), LAYOUT)
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.2)
    yield opened
    opened.close()


@contextmanager
def holding(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in an open transaction; kills it and its children at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path), "amqp://user:secret@host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "in\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def write(database: Database, name: str) -> None:
    with database.write(patience_s=0.2) as db:
        db.execute("INSERT INTO things VALUES (?)", (name,))


def names(database: Database) -> list[str]:
    with database.read() as db:
        return [name for (name,) in db.execute("SELECT name FROM things ORDER BY name")]


@linux
def test_a_stopped_holder_is_named_and_loses_nothing_when_it_goes_on(database: Database) -> None:
    with holding(HOLD, database.path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: " T " in stat.read_text(), 10, "it is stopped")
        with pytest.raises(Unreachable) as caught:
            write(database, "other")
        told = str(caught.value)
        assert f"a.db is locked: process {process.pid} ({sys.executable} -c" in told
        assert f"which is stopped, writes to it; let it go on (`kill -CONT {process.pid}`" in told
        assert "secret" not in told
        assert names(database) == []  # Reads still work.
        os.kill(process.pid, signal.SIGCONT)
        out, _ = process.communicate("", timeout=30)
        assert out == "out\n"
    write(database, "other")
    assert names(database) == ["held", "other"]


@linux
def test_a_holder_that_is_killed_holds_no_more(database: Database) -> None:
    with holding(HOLD, database.path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        write(database, "other")
    assert names(database) == ["other"]


@linux
def test_a_forked_child_does_not_keep_the_lock(database: Database) -> None:
    with holding(FORK_AND_HOLD, database.path) as process:
        with pytest.raises(Unreachable, match=f"locked: process {process.pid} "):
            write(database, "other")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        write(database, "other")
        os.killpg(process.pid, 0)  # The child is still alive.
    assert names(database) == ["other"]


@linux
def test_a_foreign_writer_is_named_and_holds_up_no_lock_of_ours(database: Database) -> None:
    program = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN IMMEDIATE');"
        " print('in', flush=True); sys.stdin.read()"
    )
    with holding(program, database.path) as process:
        for _ in range(2):
            with pytest.raises(Unreachable, match=rf"locked: process {process.pid} \(.*writes to"):
                write(database, "other")
    write(database, "other")


def _telling(folder: Path, tell: Callable[[sqlite3.Connection, float], None]) -> Database:
    def on_return(db: sqlite3.Connection, since: float) -> str:
        tell(db, since)
        return "it is back"

    return Database(SqliteAddress(folder / "a.db", "normal"), LAYOUT, on_return)


def test_a_row_of_failures_is_told_to_the_next_transaction(tmp_path: Path) -> None:
    told: list[float] = []
    database = _telling(tmp_path, lambda _, since: told.append(since))
    write(database, "first")
    foreign = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    while time.monotonic() - began < 1.1 * sqlite.OUTAGE_S:
        with pytest.raises(Unreachable):
            write(database, "early")
    foreign.execute("ROLLBACK")
    assert not told
    write(database, "late")
    write(database, "later")
    assert len(told) == 1
    assert began <= told[0] < began + sqlite.OUTAGE_S
    foreign.close()
    database.close()


def test_a_new_file_that_was_long_in_opening_has_nothing_to_renew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "OUTAGE_S", -1.0)
    told: list[float] = []

    def opened() -> Database:
        return _telling(tmp_path, lambda db, _: told.append(len(rows(db))))

    def rows(db: sqlite3.Connection) -> list[object]:
        return db.execute("SELECT * FROM things").fetchall()

    opened().close()
    assert not told
    opened().close()
    assert told == [0]


# A limit on the size of files stands in for a full disk; in a process of its own.
LATE = """
import resource, sys, time
from dataclasses import replace
from agentpipe.brokers import open_store
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Worker
from agentpipe.errors import Unreachable
from agentpipe.settings import OutboxLimits, Settings

settings = Settings(broker=sys.argv[1])
worker = Worker("early", "here", lease_s=1.0, queues=frozenset({"a"}), slots=1)
early = open_store(settings)
early.declare([Queue("a", max_waiting=10, concurrency=1)])
early.join(worker)
early.offer("a", [Offer("task", b"{}")], round_robin=False)
(claim,) = early.claim(ClaimRequest(worker, 1, OutboxLimits(9, 9)))

def fails(action):
    try:
        action()
    except Unreachable:
        return
    raise SystemExit("it could be stored")

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, most))
fails(lambda: early.heartbeat(worker))
time.sleep(1.1 * worker.lease_s)
late = open_store(settings)  # The worker that replaces one that was killed meanwhile.
other = replace(worker, name="late")
fails(lambda: late.join(other))
fails(lambda: late.claim(ClaimRequest(other, 1, OutboxLimits(9, 9))))
time.sleep(1.1)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
late.join(other)
assert not late.claim(ClaimRequest(other, 1, OutboxLimits(9, 9)))  # It runs elsewhere.
assert early.heartbeat(worker)
print(early.stats().running)
"""


def test_a_process_that_starts_while_nothing_can_be_stored_ends_no_lease(tmp_path: Path) -> None:
    program = [sys.executable, "-c", LATE, f"sqlite:///{tmp_path}/broker.db"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "1\n", ended.stderr


def test_a_mistake_in_a_transaction_is_no_outage(tmp_path: Path) -> None:
    told: list[float] = []
    database = _telling(tmp_path, lambda _, since: told.append(since))
    write(database, "once")
    with pytest.raises(StoreError, match="UNIQUE constraint failed"):
        write(database, "once")
    assert database.failing_since is None
    database.close()
    assert not told


@pytest.mark.parametrize(
    ("holders", "told"),
    [
        ([], "another process writes to it and does not end"),
        ([Holder(7, "vi", "S")], "process 7 (vi) writes to it and does not end; nothing is lost"),
        ([Holder(7, "vi", "t")], "process 7 (vi), which is stopped, writes to it; let it go on"),
    ],
)
def test_what_is_told_about_holders(holders: list[Holder], told: str) -> None:
    assert what_to_do(holders).startswith(told)
