"""Evaluators that block the worker, or that its end interrupts, lose no paid answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

JUDGE = """
import asyncio
import time
from pathlib import Path

HERE = Path(__file__).parent


async def blocks(answer):
    (HERE / "judging").touch()
    while True:
        time.sleep(0.01)


async def waits_once(answer):
    judging = HERE / "waiting"
    if not judging.exists():
        judging.touch()
        await asyncio.sleep(600)
    return answer == "hi"
"""


def _task(name: str) -> dict[str, Any]:
    evaluators = [{"func": f"judge:{name}"}]
    return {"task_id": name, "question": "echo hi", "evaluators": evaluators}


def _runs(project: Project, task_id: str) -> int:
    return [entry["task_id"] for entry in project.journal("started")].count(task_id)


@pytest.mark.every_broker(long=("sqlite", "redis", "rabbitmq"))
def test_an_evaluator_that_blocks_the_loop_breaks_its_own_verdict(project: Project) -> None:
    project.write("judge.py", JUDGE)
    project.collection(time_limit=2, concurrency=2, max_queue_size=100)
    fleet = project.work("--processes", "1", "--slots", "4")
    project.send(_task("blocks"), *["echo other"] * 5)
    project.until(delivered=6)
    assert fleet.stop() == 0
    results = project.by_id()
    blocked = results.pop("blocks")
    assert (blocked["outcome"], blocked["result"], blocked["attempt"]) == ("eval_error", "hi", 1)
    assert (blocked["reward"], _runs(project, "blocks")) == (None, 1)
    assert "longer than its time limit" in blocked["error"]["message"]
    assert {result["outcome"] for result in results.values()} == {"ok"}


@pytest.mark.every_broker(long=("sqlite", "redis", "rabbitmq"))
def test_the_answers_of_others_are_kept_where_one_blocks_the_loop(project: Project) -> None:
    project.write("judge.py", JUDGE)
    project.collection("slow", time_limit=600)
    project.collection("quick", time_limit=2)
    fleet = project.work("--processes", "1", "--slots", "2")
    project.send(_task("waits_once"), to="slow")
    wait_until((project.folder / "waiting").exists, 30, "an answer is judged")
    project.send("block 60", to="quick")
    project.until(delivered=2)
    assert fleet.stop() == 0
    waited = project.by_id()["waits_once"]
    assert (waited["outcome"], waited["result"], waited["reward"]) == ("ok", "hi", 1)
    assert _runs(project, "waits_once") == 1


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_an_answer_goes_with_a_task_whose_evaluators_a_stop_interrupts(project: Project) -> None:
    project.write("judge.py", JUDGE)
    project.environ["AGENTPIPE_GRACE_S"] = "0.1"
    project.collection(time_limit=600)
    fleet = project.work("--processes", "1")
    project.send(_task("waits_once"))
    wait_until((project.folder / "waiting").exists, 30, "an answer is judged")
    assert fleet.stop() == 0
    assert project.burst("--processes", "1").code == 0
    waited = project.by_id()["waits_once"]
    assert (waited["outcome"], waited["result"], waited["reward"]) == ("ok", "hi", 1)
    assert (_runs(project, "waits_once"), waited["attempt"]) == (1, 1)
