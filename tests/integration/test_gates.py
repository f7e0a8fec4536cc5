"""Limits of a credential's service: concurrent runs, and the time to retry."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.project import TIMEOUT_S
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.long
@pytest.mark.every_broker
def test_agents_of_a_context_of_one_never_run_two_at_once_over_two_processes(
    project: Project,
) -> None:
    context = [{"env": {"WHO": "shared"}, "concurrency": 1}, {"env": {"WHO": "free"}}]
    project.collection(number=3, context=context)
    project.send(*["sleep 0.02"] * 60)
    project.burst("--processes", "2", "--slots", "6")
    results = project.by_id().values()
    assert {result["outcome"] for result in results} == {"ok"}
    assert {result["agent"] for result in results} == {f"toys_{index}" for index in range(6)}
    entries = sorted(project.journal(), key=lambda entry: entry["monotonic"])
    shared = [entry for entry in entries if entry["who"] == "shared"]
    assert len(shared) == 60
    for begun, ended in zip(shared[::2], shared[1::2], strict=True):
        assert (begun["event"], ended["event"]) == ("started", "finished")
        assert begun["task_id"] == ended["task_id"]


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_an_agent_whose_service_is_busy_is_left_alone_and_its_siblings_go_on(
    project: Project,
) -> None:
    project.collection(number=2)
    limited, _, behind, beside = project.send(
        "limited-at-first 3", "echo a", "echo behind", "echo beside"
    )
    fleet = project.work("--processes", "2")
    project.until(delivered=4)
    starts = {entry["task_id"]: entry["monotonic"] for entry in project.journal("started")}
    first, again = (
        entry["monotonic"] for entry in project.journal("started") if entry["task_id"] == limited
    )
    assert again - first >= 3
    assert starts[behind] - first >= 3
    assert starts[beside] < again
    results = project.by_id()
    assert results[limited]["outcome"] == "ok"
    assert {result["attempt"] for result in results.values()} == {1}
    assert "cooldown of toys_0 for 3.0 s, as the service asked" in fleet.log


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_hold_outlives_the_worker_that_was_told(project: Project) -> None:
    project.collection(number=2)
    limited, _ = project.send("limited-at-first 600", "echo beside")
    fleet = project.work("--processes", "2").ready(2)
    project.until(delivered=1)
    wait_until(lambda: held_s(project)[0], TIMEOUT_S, "the agent is held")
    (told,) = [entry["pid"] for entry in project.journal("started") if entry["task_id"] == limited]
    os.kill(told, signal.SIGKILL)
    wait_until(lambda: told not in fleet.pids and len(fleet.pids) == 2, TIMEOUT_S, "a new worker")
    project.ok("send", "toys", "--file", project.tasks("echo a", "echo b", name="later.jsonl"))
    project.until(delivered=2)
    assert [bool(left_s) for left_s in held_s(project)] == [True, False]
    shown = project.ok("status").out.splitlines()
    assert [" cooldown " in line for line in shown if line.startswith("toys_")] == [True, False]
    assert len(project.journal("started")) == 3


def held_s(project: Project) -> list[float | None]:
    """The remaining cooldown of each agent."""
    return [agent["held_s"] for agent in project.stats()["agents"]]
