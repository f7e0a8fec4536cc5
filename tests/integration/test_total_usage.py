"""The cost of a task: the sum of all its runs, on any worker."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

PAYING = """
import asyncio
import os
import agentpipe
from agentpipe.trace import record_usage

class Paying:
    def __init__(self, journal):
        self.journal = journal

    async def execute(self, task, context):
        record_usage({"requests": 1, "input_tokens": 10, "output_tokens": 5, "usd": 0.25})
        verb, _, number = task.question.partition(" ")
        tried = self.tries(task)
        if verb == "free" and tried == 1:
            record_usage({"requests": 1, "input_tokens": 10})
        if verb == "wait" and tried == 1:
            await asyncio.sleep(600)
        if verb == "limit" and tried == 1:
            raise RateLimited("slow down")
        if verb in ("retry", "free") and tried <= int(number):
            raise agentpipe.InfraError("away")
        return "paid"

    def tries(self, task):
        path = f"{self.journal}.{task.task_id}"
        with open(path, "ab") as file:
            file.write(b"x")
        return os.path.getsize(path)


class RateLimited(Exception):
    status_code = 429
    headers = {"retry-after": "0.01"}
"""
ONE = {"requests": 1, "input_tokens": 10, "output_tokens": 5, "usd": 0.25}


def _times(number: int) -> dict[str, Any]:
    return {name: value * number for name, value in ONE.items()}


@pytest.fixture
def paying(project: Project) -> Project:
    """A project whose runs cost a quarter of a dollar each."""
    project.agent("paying:Paying", PAYING)
    project.collection(max_retries=3)
    return project


@pytest.mark.long
@pytest.mark.every_broker
def test_a_result_has_what_all_runs_of_its_task_cost(paying: Project) -> None:
    tasks = {"once": "retry 0", "thrice": "retry 2", "never": "retry 9", "limited": "limit 0"}
    paying.send(*({"task_id": name, "question": text} for name, text in tasks.items()))
    paying.burst("--processes", "1")
    found = paying.by_id()
    assert {name: found[name]["outcome"] for name in tasks} == {
        "once": "ok",
        "thrice": "ok",
        "never": "infra_error",
        "limited": "ok",
    }
    assert all(each["usage"] == ONE for each in found.values())
    runs = {"once": 1, "thrice": 3, "never": 4, "limited": 2}
    assert {name: found[name]["usage_total"] for name in tasks} == {
        name: _times(number) for name, number in runs.items()
    }
    assert paying.ok("report", "--json").json["usage"] == _times(sum(runs.values()))
    # A replay is a separate task: what was paid is the sum of both.
    paying.ok("dead", "replay", "--all")
    paying.burst("--processes", "1")
    (replayed,) = (each for each in paying.results() if each["replay_of"] == "never")
    assert replayed["usage_total"] == _times(4)
    assert paying.ok("report", "--json").json["usage"] == _times(sum(runs.values()) + 4)
    shown = paying.ok("show", "thrice").out
    assert "$0.25" in shown
    assert "3 requests" in shown


@pytest.mark.long
def test_a_total_has_no_price_where_one_run_had_none(paying: Project) -> None:
    paying.send({"task_id": "a", "question": "free 1"})
    paying.burst("--processes", "1")
    total = paying.by_id()["a"]["usage_total"]
    assert "usd" not in total
    assert total["requests"] == 3


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_runs_that_a_stop_or_a_frozen_loop_ends_are_in_the_total(paying: Project) -> None:
    paying.send({"task_id": "stopped", "question": "wait 0"})
    fleet = paying.work("--processes", "1", env={"AGENTPIPE_GRACE_S": "0.1"})
    wait_until(lambda: bool(list(paying.folder.rglob("*.stopped"))), 30, "it runs")
    fleet.signal(signal.SIGTERM)
    fleet.end()
    paying.burst("--processes", "1")
    assert paying.by_id()["stopped"]["usage_total"] == _times(2)


@pytest.mark.long
@pytest.mark.every_broker(but=("rabbitmq",), long=("redis",))
def test_a_task_that_is_cancelled_before_its_next_run_has_cost_all_the_same(
    paying: Project,
) -> None:
    paying.send({"task_id": "later", "question": "retry 9"})
    fleet = paying.work("--processes", "1", env={"AGENTPIPE_RETRY_DELAY_S": "600"})
    paying.until(delayed=1)
    paying.ok("cancel", "later")
    fleet.stop()
    (found,) = paying.results()
    assert (found["outcome"], found["usage"]) == ("cancelled", {})
    assert found["usage_total"] == ONE
    assert paying.ok("report", "--json").json["usage"] == ONE


def test_a_sender_may_not_say_what_a_task_has_cost(paying: Project) -> None:
    file = paying.tasks({"question": "retry 0", "spent_before": {"usd": -5.0}})
    done = paying.run("send", "toys", "--file", file)
    assert done.code == 2
    assert "spent_before: only agentpipe sets it" in done.err
