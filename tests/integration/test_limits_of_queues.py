"""The limits on waiting and running tasks hold for any number of processes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.integration.project import Project

SENDERS, AGENTS, BOUND = 8, 2, 50
ROOM = AGENTS * BOUND

WITH_DISPATCHER = """
import os
from agentpipe import Dispatcher, QueueFull, Settings, load

settings = Settings.from_env(os.environ)
dispatcher = Dispatcher.open(load(settings.collection_file), settings)

def send(number):
    dispatcher.send("toys", f"echo {number}")
"""
WITH_ACTORS = """
from agentpipe import QueueFull
from agentpipe.actors import broker

actors = [broker.get_actor("toys_0"), broker.get_actor("toys_1")]

def send(number):
    actors[number % 2].send(question=f"echo {number}")
"""
ONE_BY_ONE = """
print("ready", flush=True)
input()
accepted = 0
for number in range(30):
    try:
        send(number)
        accepted += 1
    except QueueFull as full:
        assert (full.depth, full.bound) in ((50, 50), (100, 100)), full
print(accepted)
"""


@pytest.mark.long
@pytest.mark.every_broker
def test_eight_sending_commands_fill_the_queues_to_the_bound_exactly(project: Project) -> None:
    project.collection(number=AGENTS, max_queue_size=BOUND)
    files = [project.tasks(*["echo hi"] * 40, name=f"sender{n}.jsonl") for n in range(SENDERS)]
    files += [project.tasks("echo hi", name=f"late{n}.jsonl") for n in range(SENDERS)]
    senders = [project.start("send", "toys", "--file", file, "--json") for file in files[:SENDERS]]
    _assert_sent(project, senders)
    assert {sender.returncode for sender in senders} <= {0, 3, 5}
    refused = project.run("send", "toys", "--file", files[-1])
    assert refused.code == 3
    assert "100 of at most 100 tasks wait" in refused.err


@pytest.mark.long
@pytest.mark.every_broker
@pytest.mark.parametrize("send", [WITH_DISPATCHER, WITH_ACTORS], ids=["dispatcher", "actors"])
def test_eight_programs_fill_the_queues_one_by_one_to_the_bound_exactly(
    project: Project, send: str
) -> None:
    project.collection(number=AGENTS, max_queue_size=BOUND)
    senders = [project.start("-c", send + ONE_BY_ONE) for _ in range(SENDERS)]
    for sender in senders:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    _assert_sent(project, senders)


def _assert_sent(project: Project, senders: list[subprocess.Popen[str]]) -> None:
    outputs = []
    for sender in senders:
        out, err = sender.communicate(timeout=60)
        assert "Traceback" not in err, err
        outputs.append(out)
    assert sum(map(_accepted, outputs)) == ROOM
    stats = project.stats()
    assert stats["waiting"] == ROOM
    assert [agent["waiting"] for agent in stats["agents"]] == [BOUND] * AGENTS


def _accepted(output: str) -> int:
    return int(output.split(":")[1].split(",", maxsplit=1)[0]) if "{" in output else int(output)


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_no_agent_runs_more_at_once_than_its_concurrency_over_four_processes(
    project: Project,
) -> None:
    for name, concurrency in (("one", 1), ("three", 3)):
        contexts = [{"env": {"WHO": f"{name}-{n}"}} for n in range(2)]
        project.collection(name, context=contexts, concurrency=concurrency)
        project.tasks(*["sleep 0.02"] * (40 * concurrency), name=f"{name}.jsonl")
        project.ok("send", name, "--file", f"{name}.jsonl")
    project.burst("--processes", "4", "--slots", "3")
    assert len(project.results()) == 160
    most = _most_at_once(project.journal())
    assert most == {"one-0": 1, "one-1": 1, "three-0": 3, "three-1": 3}
    assert len({entry["pid"] for entry in project.journal()}) > 1


def _most_at_once(journal: list[dict[str, Any]]) -> dict[str, int]:
    running: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)
    for entry in sorted(journal, key=lambda entry: entry["monotonic"]):
        running[entry["who"]] += 1 if entry["event"] == "started" else -1
        most[entry["who"]] = max(most[entry["who"]], running[entry["who"]])
    return dict(most)
