"""Groups whose workers are killed: each is read once and whole, and no answer is paid twice."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import GroupStream, Settings
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe import RolloutGroup
    from tests.integration.project import Fleet, Project

GROUPS, SIZE, KILLS = 40, 8, 8
# One member of each group fails in its first run, and is replaced.
AGENT = """
from toys import Toy


class Sampled(Toy):
    async def execute(self, task, context):
        answer = await super().execute(task, context)
        fails = int(task.group_id.rpartition("-")[2]) % 8 == task.sample_index
        if fails and task.retry_of is None:
            raise ConnectionError("the service is away")
        return "yes" if task.sample_index % 2 else "no"
"""
JUDGED = [{"func": "raw", "op": "=", "value": "yes"}]


@pytest.mark.long
@pytest.mark.every_broker(but=("rabbitmq",))
def test_40_groups_survive_8_kills_whole_and_paid_once(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.agent("sampled:Sampled", AGENT)
    project.collection(number=8, max_crashes=KILLS + 1, max_retries=0)
    tasks = [
        {"task_id": f"g-{number}", "question": "sleep 0.1", "evaluators": JUDGED}
        for number in range(GROUPS)
    ]
    file = project.tasks(*tasks)
    options = ("--group", str(SIZE), "--on-full", "wait")
    assert project.ok("send", "toys", "--file", file, *options, "--json").json["accepted"] == 320
    with project.ledger_watched():
        fleet = project.work("--processes", "4", "--slots", "2")
        _kill_workers(project, fleet)
        project.until(waiting=0, delayed=0, running=0, outbox=0)
        fleet.stop()
    groups = _groups(project)
    assert Counter(group.group_id for group in groups) == {it["task_id"]: 1 for it in tasks}
    for group in groups:
        assert [result.sample_index for result in group.results] == list(range(SIZE))
        assert (group.status, len(group.goods)) == ("complete", SIZE)
    results = project.by_id()
    assert len(results) == GROUPS * (SIZE + 1)
    assert project.stats()["groups"] == {
        "open": 0,
        "complete": GROUPS,
        "short": 0,
        "cancelled": 0,
        "records": 0,
        "counted": GROUPS * SIZE,
        "wasted": GROUPS,
        "flat": 0,
        "stale": 0,
    }
    _assert_nothing_ran_after_its_result(project, results)


def _kill_workers(project: Project, fleet: Fleet) -> None:
    killed = set[int]()
    for kill in range(KILLS):
        pid = random.Random(kill).choice(
            wait_until(partial(_living, project, fleet, killed, kill), 30, "a worker")
        )
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)


def _living(project: Project, fleet: Fleet, killed: set[int], kill: int) -> list[int]:
    """The live workers, once enough runs have started since the last kill."""
    busy = len(project.journal("started")) > 30 * kill
    return sorted(fleet.pids - killed) if busy else []


def _groups(project: Project) -> list[RolloutGroup]:
    """All groups, read by several readers that each load the previous reader's state."""
    found: list[RolloutGroup] = []
    state: dict[str, Any] | None = None
    while len(found) < GROUPS:
        settings = Settings.from_env(project.environ)
        with GroupStream.open(settings, group="trainer", timeout_s=2) as stream:
            if state is not None:
                stream.load_state_dict(state)
            before = len(found)
            for group in stream:
                found.append(group)
                state = stream.state_dict()
                if len(found) == before + 7:
                    break
        if len(found) == before:
            break
    return found


def _assert_nothing_ran_after_its_result(
    project: Project, results: dict[str, dict[str, Any]]
) -> None:
    for entry in project.journal("started"):
        finished_at = datetime.fromisoformat(results[entry["task_id"]]["finished_at"])
        assert entry["wall"] <= finished_at.timestamp()
