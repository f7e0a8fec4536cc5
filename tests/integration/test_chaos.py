"""``agentpipe chaos`` on each broker: its ledger balances, and nothing else is touched or left."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import redis
from kafka.admin import KafkaAdminClient

from agentpipe.chaos.space import PREFIX
from agentpipe.cli.exit_codes import INTERRUPTED
from brokers.server_rabbitmq import RabbitServer
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from brokers.server import Server
    from tests.integration.project import Project

FEW = ("--tasks", "48", "--kills", "4", "--freeze", "1", "--broker-cut", "1", "--sink-cut", "1")
TIMEOUT_S = 400.0


def balanced(project: Project, *args: str) -> dict[str, Any]:
    """Run a small trial beside two user tasks, which must stay unchanged."""
    project.collection(name="mine")
    mine = project.send("echo one", "echo two", to="mine")
    before = project.stats()
    ledger: dict[str, Any] = project.ok("chaos", *FEW, "--json", *args, timeout_s=TIMEOUT_S).json
    assert project.stats() == before
    project.burst("--processes", "1")
    assert sorted(project.by_id()) == sorted(mine)
    assert not processes_with(PREFIX)
    assert not list(project.folder.rglob(f"*{PREFIX}*"))
    return ledger


def assert_balances(ledger: dict[str, Any]) -> None:
    assert ledger["ok"]
    numbers = {name: ledger[name] for name in ("accepted", "answered_once", "lost", "twice")}
    assert numbers == {"accepted": 48, "answered_once": 48, "lost": 0, "twice": 0}
    assert ledger["outcomes"] == {"ok": 48}
    assert ledger["faults"] == {"kills": 4, "freezes": 1, "broker_cuts": 1, "sink_cuts": 1}
    assert ledger["left_out"] == {}
    assert 0 < ledger["longest_recovery_s"] < 60
    assert ledger["runs"] >= 48 + ledger["run_twice"]


@pytest.mark.long
def test_on_files(project: Project) -> None:
    assert_balances(balanced(project))


@pytest.mark.long
@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_on_redis_and_kafka(
    project: Project, redis_server: Server, kafka_server: Server, topic: str
) -> None:
    ledger = balanced(project, "--sink", f"{kafka_server.url}/{topic}")
    assert_balances(ledger)
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        assert list(client.scan_iter(f"*{PREFIX}*")) == []
    with closing(KafkaAdminClient(bootstrap_servers=urlsplit(kafka_server.url).netloc)) as admin:
        assert [name for name in admin.list_topics() if PREFIX in name] == []


@pytest.mark.long
@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_on_rabbitmq(project: Project, rabbitmq_server: Server, topic: str) -> None:
    assert_balances(balanced(project, "--sink", f"{rabbitmq_server.url}?topic={topic}"))
    assert isinstance(rabbitmq_server, RabbitServer)
    for kind in ("queues", "exchanges"):
        listed = answer_of(f"{rabbitmq_server.management_url}/api/{kind}?columns=name")
        assert "amq." in str(listed) or kind == "queues"
        assert [it["name"] for it in listed if PREFIX in it["name"]] == []


def answer_of(url: str) -> Any:
    """The JSON reply of the management API, whose URL has credentials."""
    user, _, rest = url.removeprefix("http://").partition("@")
    request = Request(f"http://{rest}")
    request.add_header("Authorization", f"Basic {b64encode(user.encode()).decode()}")
    with urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def a_trial_that_runs(project: Project) -> subprocess.Popen[str]:
    """A trial whose workers have started a run."""
    process = project.start("chaos", "--tasks", "500")
    begun = lambda: any(it.stat().st_size for it in project.folder.rglob("journal.jsonl"))  # noqa: E731
    wait_until(begun, 120, "a run has begun")
    return process


@pytest.mark.long
def test_an_interrupt_cleans_up(project: Project) -> None:
    process = a_trial_that_runs(project)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert "Traceback" not in err
    assert_nothing_is_left(project)


def assert_nothing_is_left(project: Project) -> None:
    wait_until(lambda: not processes_with(project.marker, "environ"), 60, "the workers have ended")
    assert not list(project.folder.rglob(f"*{PREFIX}*"))


@pytest.mark.long
def test_what_a_killed_trial_leaves_is_named_and_removed(project: Project) -> None:
    process = a_trial_that_runs(project)
    process.kill()
    process.wait()
    wait_until(lambda: not processes_with(project.marker, "environ"), 60, "its workers end, too")
    assert list(project.folder.rglob(f"*{PREFIX}*"))
    (name,) = project.ok("chaos", "--clean", "--json").json["removed"]
    assert name.startswith(PREFIX)
    assert_nothing_is_left(project)
    assert project.ok("chaos", "--clean").out == "0 scratch spaces removed\n"


def when_its_sink_is_there(project: Project, sabotage: Callable[[sqlite3.Connection], None]) -> Any:
    """Run a trial without faults, and sabotage its sink before the first result."""
    faults = ("--kills", "0", "--freeze", "0", "--broker-cut", "0", "--sink-cut", "0")
    process = project.start("chaos", "--tasks", "6", *faults)
    (file,) = wait_until(
        lambda: list(project.folder.rglob(f"results-{PREFIX}*.db")), 60, "the sink is there"
    )
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as db:
        wait_until(lambda: has_records(db), 30, "its tables are there")
        sabotage(db)
    out, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out


def has_records(db: sqlite3.Connection) -> bool:
    found = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'records'").fetchone()
    return bool(found[0])


@pytest.mark.long
def test_a_sink_that_loses_a_record_is_found_out(project: Project) -> None:
    def lose(db: sqlite3.Connection) -> None:
        db.execute(
            "CREATE TRIGGER lossy BEFORE INSERT ON records WHEN NEW.task_id = 'task-3'"
            " BEGIN SELECT RAISE(IGNORE); END"
        )

    code, out = when_its_sink_is_there(project, lose)
    assert code == 1
    assert "\nlost                 1  (task-3)\n" in out
    assert "\nanswered once        5\n" in out
    assert out.endswith("THE LEDGER DOES NOT BALANCE\n")


def test_mistakes_are_one_line(project: Project) -> None:
    for args, words in (
        (("--tasks", "0"), "--tasks must be at least 1"),
        (("--kills", "-1"), "a number of faults must be at least 0"),
        (("--broker", "memory://x"), "no broker 'memory' is installed"),
    ):
        done = project.run("chaos", *args)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert words in done.err
    assert not Path(project.folder / ".agentpipe").exists()
