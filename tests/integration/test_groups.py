"""Groups from the sender to the trainer, with a real worker."""

from __future__ import annotations

import subprocess
import sys
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentpipe import ConfigError, Dispatcher, GroupStream, Settings, load

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


def test_rabbitmq_refuses_groups_and_says_what_to_do(
    rabbitmq_server: RabbitServer, settings: Settings, tmp_path: Path
) -> None:
    broker = f"{rabbitmq_server.url}?prefix=groups-{uuid.uuid4().hex[:8]}"
    elsewhere = replace(settings, broker=broker)
    with Dispatcher.open(load(tmp_path / "mixed.yaml"), elsewhere, results=False) as dispatcher:
        with pytest.raises(ConfigError, match="this broker cannot count groups: send the samples"):
            dispatcher.send_group("mixed", "a question", 4)
        assert dispatcher.stats().waiting == 0
