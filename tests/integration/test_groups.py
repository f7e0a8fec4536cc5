"""Groups from the sender to the trainer, with a real worker."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import ConfigError, Dispatcher, GroupStream, Settings, load
from agentpipe.operations.stats import as_dict
from tests.stores import open_any

if TYPE_CHECKING:
    from pathlib import Path

    from brokers.server_rabbitmq import RabbitServer

AGENTS = """
class Mixed:
    async def execute(self, task, context):
        number = task.sample_index
        if task.question == "broken" and number == 1 and task.retry_of is None:
            raise ConnectionError("the service is away")
        return "yes" if number % 2 else "no"
"""
AGENT = """
kind: agent
spec: {name: mixed, type: python, config: {class: "mine:Mixed"}}
"""
COLLECTION = """
kind: collection
spec: {name: mixed, config: ./agent.yaml, number: 2, max_retries: 0, max_queue_size: 20}
"""
JUDGED = [{"func": "raw", "op": "=", "value": "yes"}]


@pytest.fixture(params=["redis", "sqlite"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'broker.db'}"
    server = request.getfixturevalue("redis_server")
    return f"{server.url}?prefix=groups-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def settings(broker: str, tmp_path: Path) -> Settings:
    (tmp_path / "mine.py").write_text(AGENTS)
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "mixed.yaml").write_text(COLLECTION)
    return Settings(broker=broker, sink=f"sqlite:///{tmp_path / 'results.db'}")


def work(settings: Settings, folder: Path) -> None:
    urls = ["--broker", settings.broker, "--sink", settings.sink]
    command = [sys.executable, "-m", "agentpipe", "work", "-c", "mixed.yaml", "--burst", *urls]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), done.stderr


@pytest.mark.long
def test_a_trainer_gets_each_group_whole_and_repaired(settings: Settings, tmp_path: Path) -> None:
    tasks = [
        {"task_id": name, "question": name, "evaluators": JUDGED} for name in ("sound", "broken")
    ]
    with Dispatcher.open(load(tmp_path / "mixed.yaml"), settings, results=False) as dispatcher:
        sent = dispatcher.send_groups("mixed", tasks, 4)
        assert (sent.accepted, sent.refused) == (8, 0)
        again = dispatcher.send_group("mixed", tasks[0], 4)
        assert (again.accepted, again.duplicates) == (0, 4)
        with pytest.raises(ConfigError, match="never fits"):
            dispatcher.send_group("mixed", "large", 41)
    work(settings, tmp_path)
    with GroupStream.open(settings, group="trainer", timeout_s=1) as stream:
        found = {group.group_id: group for group in stream}
    assert stream.counts == {"complete": 2}
    assert found.keys() == {"sound", "broken"}
    assert all(group.rewards == [0.0, 1.0, 0.0, 1.0] for group in found.values())
    assert [it.task_id for it in found["broken"].results][1] == "broken/1~1"
    seeds = {it.seed for group in found.values() for it in group.results}
    assert len(seeds) == 8


def send(settings: Settings, folder: Path, *options: str) -> tuple[int, Any]:
    urls = ["--broker", settings.broker, "--json", "-c", "mixed.yaml"]
    command = [sys.executable, "-m", "agentpipe", "send", "mixed", "--file", "tasks.jsonl"]
    done = subprocess.run(
        [*command, *options, *urls],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


@pytest.mark.parametrize(
    "broker", ["sqlite", pytest.param("redis", marks=pytest.mark.long)], indirect=True
)
def test_the_command_line_sends_groups(settings: Settings, tmp_path: Path) -> None:
    tasks = [{"task_id": name, "question": name, "evaluators": JUDGED} for name in ("a", "b")]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    options = ("--group", "3", "--spares", "1", "--need", "2", "--repairs", "0", "--run", "r")
    code, sent = send(settings, tmp_path, *options)
    assert (code, sent["accepted"], sent["duplicates"]) == (0, 8, 0)
    assert sent["task_ids"][:4] == ["r/a/0", "r/a/1", "r/a/2", "r/a/3"]
    code, again = send(settings, tmp_path, *options)
    assert (code, again["accepted"], again["duplicates"]) == (0, 0, 8)
    with closing(open_any(settings)) as store:
        stats = store.stats()
    assert as_dict(stats)["groups"] == {
        "open": 2,
        "complete": 0,
        "short": 0,
        "cancelled": 0,
        "records": 0,
        "counted": 0,
        "wasted": 0,
        "flat": 0,
        "stale": 0,
    }
    work(settings, tmp_path)
    # One agent can answer both runs that a group needs: then their rewards are equal.
    with GroupStream.open(settings, group="trainer", timeout_s=1, keep=bool) as stream:
        assert sorted(group.group_id for group in stream) == ["r/a", "r/b"]
    code, partly = send(settings, tmp_path, "--group", "30", "--run", "larger")
    assert (code, partly["accepted"], partly["refused"]) == (5, 30, 30)
    code, refused = send(settings, tmp_path, "--group", "20", "--run", "none")
    assert (code, refused["accepted"], refused["refused"]) == (3, 0, 40)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--spares", "1"), "--spares needs --group N"),
        (("--group", "0"), "--group must be at least 1"),
        (("--group", "2", "--need", "3"), "need must be 1 to 2"),
        (("--group", "2", "--samples", "2", "--run", "r"), "--samples"),
        (("--group", "9999", "--spares", "9"), "at most 10,000 together"),
        (("--group", "41"), "never fits into the queues"),
    ],
)
@pytest.mark.parametrize("broker", ["sqlite"], indirect=True)
def test_numbers_of_a_group_that_do_not_fit_are_refused(
    settings: Settings, tmp_path: Path, options: tuple[str, ...], error: str
) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"question": "q"}\n')
    code, said = send(settings, tmp_path, *options)
    assert code == 2
    assert error in said


@pytest.mark.parametrize("broker", ["sqlite"], indirect=True)
def test_a_task_that_is_a_sample_already_is_no_group(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"task_id": "t", "question": "q", "group_id": "g"}\n')
    code, said = send(settings, tmp_path, "--group", "2")
    assert code == 2
    assert "task 't': group_id: a group's members get theirs from it" in said


def test_rabbitmq_refuses_groups_and_says_what_to_do(
    rabbitmq_server: RabbitServer, settings: Settings, tmp_path: Path
) -> None:
    broker = f"{rabbitmq_server.url}?prefix=groups-{uuid.uuid4().hex[:8]}"
    elsewhere = replace(settings, broker=broker)
    with Dispatcher.open(load(tmp_path / "mixed.yaml"), elsewhere, results=False) as dispatcher:
        with pytest.raises(ConfigError, match="this broker cannot count groups: send the samples"):
            dispatcher.send_group("mixed", "a question", 4)
        assert dispatcher.stats().waiting == 0
