"""A rollouts loop in separate processes: its agents, trainer and workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentpipe import Settings
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


# For an even prompt half of the members are right, so rewards vary; for an odd one all are.
AGENTS = """
import asyncio, os
class Mixed:
    async def execute(self, task, context):
        await asyncio.sleep(0.1)
        with open(os.environ["JOURNAL"], "a") as file:
            file.write(f"{task.task_id}\\n")
        if task.question.startswith("fail") and task.sample_index == 0:
            raise ValueError("not this one")
        number = int(task.question.removeprefix("fail"))
        return "yes" if number % 2 or task.sample_index % 2 else "no"
"""
AGENT = """
kind: agent
spec: {name: mixed, type: python, config: {class: "mine:Mixed"}}
"""
COLLECTION = """
kind: collection
spec: {name: mixed, config: ./agent.yaml, number: 2, max_queue_size: 20}
"""
# A trainer of a collection with this policy publishes after each step.
POLICY = """
kind: policy
spec: {name: main, endpoints: ["http://127.0.0.1:9/v1"], batch: 3, max_staleness: 1}
---"""
JUDGED = [{"func": "raw", "op": "=", "value": "yes"}]
PROMPTS = 24
# The trainer saves its state together with the used groups, like a training checkpoint. If the
# file ``meet-POINT`` exists, it creates ``at-POINT`` and waits for ``go-POINT``.
TRAINER = f"""
import json, logging, os, sys, time
from agentpipe import Rollouts, Settings
logging.basicConfig(level=logging.INFO)
def meet(point):
    if os.path.exists(f"meet-{{point}}"):
        open(f"at-{{point}}", "w").close()
        while not os.path.exists(f"go-{{point}}"):
            time.sleep(0.02)

prompts = [
    {{"question": str(number), "evaluators": {JUDGED!r}}} for number in range({PROMPTS})
]
broker, sink, *shard = sys.argv[1:]
shard = tuple(map(int, shard)) or (0, 1)
checkpoint = f"checkpoint-{{shard[0]}}.json"
with Rollouts.open(
    "mixed.yaml",
    prompts,
    n=4,
    batch=3,
    settings=Settings(broker=broker, sink=sink),
    timeout_s=60,
    shard=shard,
) as rollouts:
    used = []
    if os.path.exists(checkpoint):
        saved = json.load(open(checkpoint))
        rollouts.load_state_dict(saved["state"])
        used = saved["used"]
    for batch in rollouts:
        used += [group.group_id for group in batch.groups]
        meet(f"used-{{batch.step}}")
        if rollouts.policy is not None:
            with rollouts.policy.update(rollouts.step):
                pass
        with open(f"{{checkpoint}}.new", "w") as file:
            json.dump({{"state": rollouts.state_dict(), "used": used}}, file)
        os.replace(f"{{checkpoint}}.new", checkpoint)
        meet(f"saved-{{batch.step}}")
    print(json.dumps({{"used": used, "flat": rollouts.counts["flat"], "step": rollouts.step}}))
"""


def settings_on(request: pytest.FixtureRequest, folder: Path) -> Settings:
    """Settings of a new loop, on the broker that the fixture's parameter names."""
    broker = f"sqlite:///{folder / 'broker.db'}"
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        broker = f"{server.url}?prefix=loop-{uuid.uuid4().hex[:8]}"
    return Settings(broker=broker, sink=f"sqlite:///{folder / 'results.db'}")


def write_project(folder: Path, *, with_policy: bool = False, records: bool = False) -> None:
    """Write a collection with its agent, and a trainer."""
    (folder / "mine.py").write_text(AGENTS)
    (folder / "agent.yaml").write_text(AGENT)
    added = "policy: main, " if with_policy else ""
    added += "record: {tokens: require}, " if records else ""
    collection = COLLECTION.replace("spec: {", f"spec: {{{added}")
    (folder / "mixed.yaml").write_text(f"{POLICY}{collection}" if with_policy else collection)
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "journal").touch()


@contextmanager
def working(settings: Settings, folder: Path) -> Iterator[None]:
    """Run a worker, which logs to ``work.log``."""
    urls = ["--broker", settings.broker, "--sink", settings.sink]
    command = [sys.executable, "-m", "agentpipe", "work", "-c", "mixed.yaml", *urls]
    environ = {**os.environ, "JOURNAL": str(folder / "journal")}
    with (folder / "work.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stderr=log, stdout=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def trainer(settings: Settings, folder: Path, *shard: int) -> subprocess.Popen[str]:
    """Start a trainer, with its state in ``checkpoint-0.json`` and its log in ``trainer.log``."""
    command = [sys.executable, "trainer.py", settings.broker, settings.sink, *map(str, shard)]
    with (folder / "trainer.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=log)


def reach(process: subprocess.Popen[str], folder: Path, point: str) -> None:
    """Wait until the trainer stops at a point of ``TRAINER``."""

    def is_there() -> bool:
        assert process.poll() is None, (folder / "trainer.log").read_text()
        return (folder / f"at-{point}").exists()

    wait_until(is_there, 120, point)


def end_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


def assert_each_once(used: list[str], folder: Path) -> None:
    """Check that each varied group was used once, and that each member of all groups ran once."""
    assert sorted(used) == [f"mixed/{number:06}" for number in range(0, PROMPTS, 2)]
    ran = Counter((folder / "journal").read_text().split())
    assert set(ran.values()) == {1}
    assert len(ran) == 4 * PROMPTS
