"""Which queues the workers of an SQLite store serve, apart from what a heartbeat writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import Queue, Worker
from agentpipe.settings import Settings
from tests.stores import open_any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stores import AnyStore

BEATS, QUEUES = 4, 5_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnyStore]:
    with closing(open_any(Settings(broker=f"sqlite:///{tmp_path}/a.db?synchronous=normal"))) as it:
        yield it


def test_a_heartbeat_writes_no_names_of_queues(store: AnyStore, tmp_path: Path) -> None:
    names = frozenset(f"a_rather_long_name_of_an_agent_{number}" for number in range(QUEUES))
    worker = Worker("w", queues=names)
    store.join(worker)
    log = tmp_path / "a.db-wal"
    before = log.stat().st_size
    for _ in range(BEATS):
        assert store.heartbeat(worker, b"{}")
    assert log.stat().st_size - before < BEATS * sum(map(len, names)) / 4


def test_names_are_kept_once_for_all_that_serve_them_and_go_with_the_last(
    store: AnyStore, tmp_path: Path
) -> None:
    workers = [Worker(name, queues=frozenset({"q", "r"})) for name in ("v", "w")]
    store.declare([Queue("q"), Queue("r")])
    for worker in workers:
        store.join(worker)
    with closing(sqlite3.connect(tmp_path / "a.db")) as file:
        for worker, left in zip(workers, (1, 0), strict=True):
            assert file.execute("SELECT queues FROM served_queues").fetchall() == [('["q","r"]',)]
            store.leave(worker)
            assert file.execute("SELECT count(*) FROM served_queues").fetchone() == (left,)
