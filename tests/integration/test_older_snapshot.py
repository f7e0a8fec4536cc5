"""A Redis restored from an older snapshot: workers and broker reconcile."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from brokers.server_redis import RedisServer
from tests.integration.waiter import until_started, waiter
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project
    from tests.servers import OwnServer

pytestmark = [pytest.mark.server, pytest.mark.long]


@pytest.fixture
def server(own_server: OwnServer) -> RedisServer:
    return own_server(RedisServer, settings={"appendonly": "no", "save": '""'})


@pytest.fixture
def broker_url(server: RedisServer) -> str:
    return server.url


@pytest.fixture
def project(project: Project) -> Project:
    project.agent("waiter:Waiter", waiter(0.5))
    project.collection(number=1, concurrency=1)
    return project


def test_what_a_snapshot_brings_back_is_answered_by_the_same_worker(
    project: Project, server: RedisServer
) -> None:
    fleet = project.work("--processes", "1", "--slots", "4").ready(1)
    project.write("now", "")
    project.send({"task_id": "first", "question": "now"})
    project.until(delivered=1)
    with _sink_locked(project):
        project.send({"task_id": "lent", "question": "now"})
        wait_until(lambda: _keys(server, "lent"), 60, "a result is lent")
        project.send({"task_id": "held", "question": "a"}, {"task_id": "later", "question": "b"})
        until_started(project, "held")
        _take_snapshot(server)
    project.write("a", "")
    project.until(delivered=3, running=1)
    until_started(project, "later")
    pids = fleet.pids
    _go_back(server)
    wait_until(lambda: "did not agree" in fleet.log, 60, "they compare")
    project.write("b", "")
    project.until(delivered=4, running=0, waiting=0, outbox=0)
    assert fleet.pids == pids
    fleet.stop()
    results = project.by_id()
    assert {name: each["outcome"] for name, each in results.items()} == dict.fromkeys(
        ("first", "lent", "held", "later"), "ok"
    )
    assert results["later"]["attempt"] == 1
    runs = [(entry["event"], entry["task_id"]) for entry in project.journal()]
    assert [event for event, _ in runs] == ["started", "ended"] * (len(runs) // 2)
    assert [task_id for event, task_id in runs if event == "started"].count("held") == 2


@contextmanager
def _sink_locked(project: Project) -> Iterator[None]:
    """Lock the sink, so no result is delivered."""
    file = project.environ["AGENTPIPE_SINK"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.execute("ROLLBACK")


def _keys(server: RedisServer, kind: str) -> list[bytes]:
    with redis.Redis.from_url(server.url) as client:
        return list(client.scan_iter(f"*:{kind}:*"))


def _take_snapshot(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.save()
    data = server.folder / "data"
    shutil.copy(data / "dump.rdb", data / "older.rdb")


def _go_back(server: RedisServer) -> None:
    server.kill()
    data = server.folder / "data"
    shutil.copy(data / "older.rdb", data / "dump.rdb")
    server.start()
