"""Rate limits belong to a credential: all agents of a context pause, in the whole fleet."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.integration.project import TIMEOUT_S
from tests.llm_stub import LlmStub, Reply, fail, say
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.project import Project
    from tests.llm_stub import Request

CONTEXTS = [{"env": {"OPENAI_API_KEY": f"sk-of-context-{n}"}} for n in "ab"]
AGENT = """
class Limited(Exception):
    status_code = 429
    headers = {"x-ratelimit-reset-requests": "300ms"}


class Apart:
    def __init__(self):
        self.runs = 0

    def execute(self, task, context):
        import pathlib

        mark = pathlib.Path(task.task_id + ".mark")
        if not mark.exists():
            mark.touch()
            raise Limited("slow down")
        return "served"
"""


def serve(project: Project, stub: LlmStub, **limits: Any) -> None:
    """Add a collection ``llm`` whose model is the stub."""
    config = {"model": "openai:gpt-4o-mini", "base_url": stub.url}
    spec = {"name": "llm", "type": "llm", "config": config}
    project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.collection("llm", "./llm.yaml", **limits)


def limited_for(limit_s: float) -> Callable[[Request], Reply]:
    """A model that answers 429 without a retry time, until ``limit_s`` after the first request."""
    first: list[float] = []

    def reply(request: Request) -> Reply:
        first.append(request.at)
        return fail(429) if request.at - first[0] < limit_s else say("served")

    return reply


@pytest.mark.long
@pytest.mark.every_broker
def test_no_task_is_lost_to_a_limit_without_a_time(project: Project) -> None:
    with LlmStub(limited_for(3)) as stub:
        serve(project, stub, number=8, context=CONTEXTS[:1], max_retries=1)
        project.send(*[f"question {n}" for n in range(40)], to="llm")
        project.burst("--processes", "2", timeout_s=90)
        requests = list(stub.requests)
    results = project.by_id()
    assert {result["outcome"] for result in results.values()} == {"ok"}
    assert len(results) == 40
    assert {result["attempt"] for result in results.values()} == {1}
    assert len(requests) <= 40 + 8, "one each that was under way"
    waited_s = requests[-40].at - requests[0].at
    assert waited_s >= 5


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_the_agents_of_a_context_rest_together_and_the_others_go_on(project: Project) -> None:
    def reply(request: Request) -> Reply:
        if request.authorization.endswith("b"):
            return say("served")
        told.append(request.at)
        early = request.at - told[0] < 1
        return Reply(status=429, headers={"x-ratelimit-reset-tokens": "2s"}) if early else say("ok")

    told: list[float] = []
    with LlmStub(reply) as stub:
        serve(project, stub, number=2, context=CONTEXTS)
        project.send(*[f"question {n}" for n in range(12)], to="llm")
        fleet = project.work("--processes", "2")
        both = [True, False, True, False]
        wait_until(lambda: list(map(bool, held(project))) == both, TIMEOUT_S, "two agents rest")
        project.until(delivered=12)
    results = project.by_id().values()
    assert {(result["outcome"], result["attempt"]) for result in results} == {("ok", 1)}
    refused = [at for at in told if at - told[0] < 1]
    assert len(refused) <= 2, "those that were under way"
    assert told[len(refused)] - told[0] >= 1.9
    assert "for 2.0 s, as the service asked; it covers 1 more agents of its context" in fleet.log


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
@pytest.mark.long
def test_a_task_that_meets_the_limit_for_too_long_is_a_dead_letter(project: Project) -> None:
    with LlmStub([Reply(status=429, headers={"retry-after-ms": "300"})]) as stub:
        serve(project, stub, max_cooldown_s=0.5)
        project.send("question", to="llm")
        project.burst("--processes", "1")
        asked = [request.at for request in stub.requests]
    (result,) = project.results()
    assert (result["outcome"], result["attempt"]) == ("infra_error", 1)
    assert result["error"]["type"] == "ModelRateLimitError"
    assert "waited 1 s in cooldowns, at most max_cooldown_s: 0.5" in result["error"]["message"]
    assert len(asked) == 3
    assert min(after - before for before, after in pairwise(asked)) >= 0.29
    assert project.stats()["dead"] == 1


@pytest.mark.long
def test_a_limit_met_in_an_agents_own_process_is_one(project: Project) -> None:
    project.write("apart.py", AGENT)
    spec = {"name": "apart", "type": "python", "config": {"class": "apart:Apart"}}
    project.write("apart.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.collection("apart", "./apart.yaml", isolation="process", number=2, max_retries=0)
    project.send("a", to="apart")
    begun = time.monotonic()
    done = project.burst("--processes", "1")
    assert time.monotonic() - begun >= 0.3
    (result,) = project.results()
    assert (result["outcome"], result["attempt"]) == ("ok", 1)
    expected = "cooldown of apart_0 for 0.3 s, as the service asked; it covers 1 more agents"
    assert expected in done.err


def held(project: Project) -> list[float | None]:
    """The remaining cooldown of each agent, in seconds."""
    return [agent["held_s"] for agent in project.stats()["agents"]]
