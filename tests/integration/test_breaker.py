"""The breaker: a collection whose runs keep failing the same way is paused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.llm_stub import LlmStub, Reply, fail, say
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project
    from tests.llm_stub import Request

TASKS, PROCESSES, AGENTS = 300, 2, 4
# How many other tasks can be running when the failure that opens the breaker is settled.
RUNNING = PROCESSES * AGENTS
PATIENCE_S = 30.0
AGENT = """
import asyncio
import pathlib

import agentpipe

HERE = pathlib.Path(__file__).parent


class Agent:
    async def execute(self, task, context):
        with (HERE / "runs").open("a") as runs:
            runs.write("run\\n")
        await asyncio.sleep(0.01)
        if (HERE / "mended").exists():
            return "fine"
        kind = (HERE / "kind").read_text()
        if kind == "permanent":
            raise agentpipe.InfraError(f"no model {task.question!r}", permanent=True)
        if kind == "retried":
            raise ConnectionError(f"cannot reach http://127.0.0.1:9/{task.question}")
        raise ValueError(f"task {task.task_id} is not possible")
"""


def failing(project: Project, kind: str, **spec: Any) -> Project:
    """A project with 300 tasks, whose agents all fail in the same way."""
    project.write("failing.py", AGENT)
    project.write("kind", kind)
    agent = "kind: agent\nspec: {name: a, type: python, config: {class: 'failing:Agent'}}\n"
    project.write("failing.yaml", agent)
    project.collection("crew", "./failing.yaml", number=AGENTS, max_queue_size=TASKS, **spec)
    project.send(*[f"question-{number}" for number in range(TASKS)], to="crew")
    return project


def is_paused(project: Project) -> bool:
    return all(agent["pause_reason"] for agent in project.stats()["agents"])


def runs(project: Project) -> int:
    return len((project.folder / "runs").read_text().splitlines())


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
@pytest.mark.parametrize("kind", ["agent's", "permanent"])
def test_300_equal_failures_do_not_happen(project: Project, kind: str) -> None:
    failing(project, kind)
    done = project.run("work", "--burst", "--processes", str(PROCESSES))
    assert done.code == 1, done
    assert 10 <= runs(project) <= 10 + RUNNING
    assert "crew is paused: 10 runs in a row failed the same way" in done.err
    assert "agentpipe resume crew" in done.err
    ended = len(project.streamed())
    assert ended == runs(project)
    stats = project.stats()
    assert (stats["waiting"], stats["running"]) == (TASKS - ended, 0)
    assert stats["dead"] == (ended if kind == "permanent" else 0)


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_what_was_paused_is_mended_resumed_and_replayed(project: Project) -> None:
    failing(project, "permanent")
    reason = "10 runs in a row failed the same way: InfraError: no model"
    fleet = project.work("--processes", "1").ready(1)
    wait_until(lambda: is_paused(project), PATIENCE_S, "the collection is paused")
    project.until(running=0, outbox=0)
    status = project.ok("status")
    assert f"crew is paused: {reason}" in status.out
    assert all(reason in it["pause_reason"] for it in project.ok("status", "--json").json["agents"])
    why = project.run("why", f"tasks-{TASKS - 1}")
    assert reason in why.out
    assert fleet.log.count("ERROR") == 1
    project.write("mended", "")
    dead = project.stats()["dead"]
    project.ok("resume", "crew")
    project.ok("dead", "replay", "--collection", "crew", "--yes")
    project.until(waiting=0, running=0, outbox=0)
    fleet.stop()
    outcomes = [result["outcome"] for result in project.results()]
    assert (outcomes.count("ok"), outcomes.count("infra_error")) == (TASKS, dead)


@pytest.mark.long
def test_failures_that_are_retried_count_as_well(project: Project) -> None:
    failing(project, "retried")
    assert project.run("work", "--burst", "--processes", str(PROCESSES)).code == 1
    assert 10 <= runs(project) <= 10 + RUNNING
    stats = project.stats()
    assert stats["waiting"] + stats["delayed"] == TASKS


@pytest.mark.long
def test_breaker_0_lets_all_of_them_run(project: Project) -> None:
    failing(project, "agent's", breaker=0)
    project.burst("--processes", str(PROCESSES))
    assert runs(project) == TASKS


@pytest.mark.long
def test_another_collection_goes_on_and_the_burst_ends_with_both(project: Project) -> None:
    failing(project, "agent's")
    project.collection("toys")
    project.send(*[{"question": "echo", "task_id": f"toy-{n}"} for n in range(5)])
    done = project.run("work", "--burst", "--processes", "1")
    assert done.code == 1
    outcomes = [result["outcome"] for result in project.results()]
    assert outcomes.count("ok") == 5


@pytest.mark.long
def test_a_burst_with_what_is_paused_already_says_so_and_ends(project: Project) -> None:
    failing(project, "agent's")
    assert project.run("work", "--burst", "--processes", "1").code == 1
    before = runs(project)
    again = project.run("work", "--burst", "--processes", "1")
    assert (again.code, runs(project)) == (1, before)
    assert "nothing more runs: crew is paused" in again.err


@pytest.mark.long
def test_a_refused_key_costs_a_few_requests_and_no_task(project: Project) -> None:
    def answer(request: Request) -> Reply:
        return say("fine") if "good" in request.authorization else fail(401)

    with LlmStub(answer) as stub:
        config = {"model": "openai:x", "base_url": stub.url}
        agent = {"kind": "agent", "spec": {"name": "a", "type": "llm", "config": config}}
        project.write("llm.yaml", yaml.safe_dump(agent))
        context = [{"env": {"OPENAI_API_KEY": "${KEY}"}}]
        project.collection("crew", "./llm.yaml", number=2, context=context)
        project.send(*["?"] * 40, to="crew")
        done = project.run("work", "--burst", "--processes", "1", env={"KEY": "bad"})
        assert done.code == 1, done
        assert 10 <= len(stub.requests) <= 12
        assert {result["error"]["permanent"] for result in project.results()} == {True}
        project.ok("resume", "crew")
        project.ok("dead", "replay", "--collection", "crew", "--yes")
        project.burst("--processes", "1", env={"KEY": "good"})
    outcomes = [result["outcome"] for result in project.results()]
    assert outcomes.count("ok") == 40
