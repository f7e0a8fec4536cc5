"""The write-ahead log of the embedded store while another program reads."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.brokers.sqlite import SqliteStore
from agentpipe.connections import wal
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks.base import Record
from agentpipe.sinks.sqlite import SqliteSink
from tests.stores import ROOMY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc/locks")
READ = (
    "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
    " db.execute('BEGIN'); db.execute('SELECT count(*) FROM sqlite_schema').fetchall();"
    " print('in', flush=True); sys.stdin.read()"
)
LARGE, MOST, KEPT = 6 * wal.MEBIBYTE, 12 * wal.MEBIBYTE, 2 * wal.MEBIBYTE
PAYLOAD = b"x" * 100_000
WORKER = Worker("w", queues=frozenset({"q"}), slots=10)


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("LARGE_BYTES", LARGE), ("MAX_BYTES", MOST), ("KEPT_BYTES", KEPT)):
        monkeypatch.setattr(wal, name, size)
    monkeypatch.setattr(wal, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(wal, "MOST_PAGES", 256)


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """Another program that holds a snapshot; yields its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    try:
        yield process.pid
    finally:
        process.communicate("")


def size_of(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


def offer(store: SqliteStore, number: int) -> None:
    store.offer("q", [Offer(str(number), PAYLOAD)], round_robin=False)


def offer_many(store: SqliteStore) -> None:
    for number in range(1, 1_000):
        offer(store, number)
        store.heartbeat(WORKER)


def publish_many(sink: SqliteSink) -> None:
    for number in range(1_000):
        sink.publish([Record(str(number), PAYLOAD)])


def test_the_log_of_a_store_is_bounded_said_and_shrinks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    url = f"sqlite:///{path}?synchronous=normal"
    store = SqliteStore(url, Settings(broker=url))
    store.declare([Queue("q", max_waiting=10_000, concurrency=10)])
    store.join(WORKER)
    offer(store, 0)
    (claim,) = store.claim(ClaimRequest(WORKER, 1, ROOMY))
    with reading(path) as pid, caplog.at_level(logging.WARNING):
        with pytest.raises(Unreachable) as refused:
            offer_many(store)
        store.heartbeat(WORKER)
        assert MOST <= size_of(path) < MOST + 10 * len(PAYLOAD)
        reader = f"because process {pid} ("
        assert reader in str(refused.value)
        assert str(refused.value).endswith("until then nothing new is accepted")
        # One warning when it is large, one when it is full.
        assert caplog.text.count("a.db-wal has grown to") == 2
        assert reader in caplog.text
        assert store.claim(ClaimRequest(WORKER, 1, ROOMY)) == []
        assert store.heartbeat(WORKER)  # Running tasks can still end.
        assert store.settle([Settlement(claim, "complete", b"{}", "ok")]) == [True]
        finding = store.examine()[-1]
        assert (finding.name, finding.status) == ("write-ahead log", "fail")
        assert reader in finding.found
    for _ in range(3):
        assert store.heartbeat(WORKER)
    assert size_of(path) <= KEPT
    assert store.examine()[-1].status == "ok"
    offer(store, 2_000)
    assert len(store.claim(ClaimRequest(WORKER, 1, ROOMY))) == 1
    store.close()


def test_a_full_log_of_a_sink_takes_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sink = SqliteSink(f"sqlite:///{path}?synchronous=normal")
    with reading(path) as pid:
        with pytest.raises(Unreachable, match=f"because process {pid} "):
            publish_many(sink)
        assert sink.examine()[-1].status == "fail"
    sink.close()


def test_a_large_log_that_nobody_reads_is_no_alarm_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.db-wal").write_bytes(bytes(LARGE))
    log = wal.WriteAheadLog(tmp_path / "a.db")
    for _ in range(3):
        log.watch()
    assert not caplog.text
    assert log.examine().status == "warn"
