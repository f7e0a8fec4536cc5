"""An SQLite file on a disk without space: what fills the disk can still be removed."""

from __future__ import annotations

import resource
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.connections.sqlite_layout import Layout
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from tests.stores import ROOMY, open_any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUT = Layout(1, "things", "CREATE TABLE things (x)")
WORKER = Worker("w", queues=frozenset({"q"}), lease_s=600, slots=100)
RESULTS, RESULT_BYTES = 32, 100_000


@contextmanager
def _without_space(path: Path) -> Iterator[None]:
    """Let this process's files grow no larger than the log of the database is now."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name(f"{path.name}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_begins_the_log_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(Database(SqliteAddress(path, "normal"), LAYOUT)) as database:
        with database.write() as db:
            db.executemany("INSERT INTO things VALUES (?)", [(b"x" * 10_000,)] * 200)
        with _without_space(path):
            with pytest.raises(Unreachable), database.write() as db:
                db.execute("UPDATE things SET x = zeroblob(10000)")
            with database.write() as db:
                db.execute("UPDATE things SET x = zeroblob(10000)")


def test_results_leave_an_outbox_that_fills_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    with closing(open_any(Settings(broker=f"sqlite:///{path}"))) as store:
        store.declare([Queue("q", concurrency=RESULTS)])
        store.join(WORKER)
        store.offer("q", [Offer(str(n), b"{}") for n in range(RESULTS)], round_robin=False)
        claims = store.claim(ClaimRequest(WORKER, RESULTS, ROOMY))
        for claim in claims:
            store.settle([Settlement(claim, "complete", b"x" * RESULT_BYTES, "ok")])
        store.sync()
        batch = store.take_outbox(WORKER, RESULTS, RESULTS * RESULT_BYTES)
        assert len(batch) == RESULTS
        with _without_space(path):
            store.drop_outbox(WORKER, [record.number for record in batch])
        assert store.stats().outbox == 0
