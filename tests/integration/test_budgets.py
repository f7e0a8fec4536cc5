"""Budgets: a fleet stops at the cap, and continues after the cap is raised."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.llm_stub import LlmStub, Reply, say
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project
    from tests.llm_stub import Request

TASKS, AGENTS, PROCESSES = 60, 3, 2
# One run: 10 prompt tokens for gpt-4o-mini, 4 of them cached, and 5 completion tokens.
TOKENS, USD = 15, 6 * 0.15e-6 + 4 * 0.075e-6 + 5 * 0.6e-6
PATIENCE_S = 30.0
CONTEXT = [{"env": {"OPENAI_API_KEY": "k"}}]

pytestmark = pytest.mark.every_broker(but=("rabbitmq",), long=("redis",))


def answer(_: Request) -> Reply:
    return say("four")


@pytest.fixture
def stub() -> Iterator[LlmStub]:
    with LlmStub(answer) as stub:
        yield stub


def unpriced(project: Project) -> None:
    """Write the config of an agent whose model has no known price."""
    config = {"model": "openai:my-own", "base_url": "http://127.0.0.1:9/v1"}
    agent = {"kind": "agent", "spec": {"name": "a", "type": "llm", "config": config}}
    project.write("llm.yaml", yaml.safe_dump(agent))


def paying(project: Project, stub: LlmStub, budget: dict[str, Any] | None, **spec: Any) -> None:
    """Create a collection with paid tasks and an optional budget."""
    config = {"model": "openai:gpt-4o-mini", "base_url": stub.url}
    agent = {"kind": "agent", "spec": {"name": "a", "type": "llm", "config": config}}
    project.write("llm.yaml", yaml.safe_dump(agent))
    context = [{"env": {"OPENAI_API_KEY": "k"}}]
    more = {} if budget is None else {"budget": budget}
    spec = {"number": AGENTS, "max_queue_size": TASKS, "context": context, **more, **spec}
    project.collection("crew", "./llm.yaml", **spec)
    project.send(*[{"question": "?", "task_id": f"t-{n}"} for n in range(TASKS)], to="crew")


def budget_of(project: Project) -> dict[str, Any]:
    (budget,) = project.stats()["budgets"]
    assert isinstance(budget, dict)
    return budget


@pytest.mark.long
def test_a_burst_stops_at_the_cap_and_resume_goes_on(project: Project, stub: LlmStub) -> None:
    paying(project, stub, {"tokens": 20 * TOKENS})
    done = project.run("work", "--burst", "--processes", str(PROCESSES))
    assert done.code == 1, done
    assert "nothing more runs of collection crew: the budget is spent: 3" in done.err
    ran = len(stub.requests)
    assert 20 <= ran <= 20 + PROCESSES * AGENTS
    budget = budget_of(project)
    assert budget["spent"]["tokens"] == ran * TOKENS
    assert budget["overshoot"]["tokens"] == (ran - 20) * TOKENS
    assert (budget["collection"], budget["run"], budget["is_spent"]) == ("crew", None, True)
    assert len(project.streamed()) == ran

    left = next(f"t-{n}" for n in range(TASKS) if f"t-{n}" not in project.streamed())
    why = project.ok("why", left, "--json").json
    assert why["reason"] == "budget_spent"
    assert "agentpipe resume crew --budget-tokens N" in why["next"]
    assert "the budget is spent" in project.ok("status").out
    low = project.run("resume", "crew", "--budget-tokens", "10")
    assert low.code == 2
    assert "already: give it a higher cap" in low.err
    assert "the budget is spent" in project.run("resume", "crew").err

    project.ok("resume", "crew", "--budget-tokens", str(10 * TASKS * TOKENS))
    project.burst("--processes", str(PROCESSES))
    assert len(stub.requests) == len(project.streamed()) == TASKS
    assert budget_of(project)["spent"]["tokens"] == TASKS * TOKENS


@pytest.mark.long
def test_a_budget_in_usd_counts_what_models_cost(project: Project, stub: LlmStub) -> None:
    paying(project, stub, {"usd": round(10 * USD, 9)})
    assert project.run("work", "--burst", "--processes", "1").code == 1
    ran = len(stub.requests)
    assert 10 <= ran <= 10 + AGENTS
    spent = budget_of(project)["spent"]
    assert spent["usd"] == pytest.approx(ran * USD, abs=1e-9)


@pytest.mark.long
def test_killed_workers_lose_no_spending_and_claims_stay_stopped(
    project: Project, stub: LlmStub
) -> None:
    """Every settled run is counted despite kills; unsettled runs are repeated."""
    paying(project, stub, {"tokens": 30 * TOKENS}, max_crashes=100)
    for done in (5, 12, 20):
        fleet = project.work("--processes", "2")
        stub.wait_for(done)
        fleet.signal(signal.SIGKILL)
        fleet.end()
    fleet = project.work("--processes", "2")
    wait_until(lambda: budget_of(project)["is_spent"], PATIENCE_S, "the budget is spent")
    project.until(running=0, outbox=0)
    fleet.stop()
    settled = len(project.streamed())
    assert budget_of(project)["spent"]["tokens"] == settled * TOKENS
    asked = len(stub.requests)
    again = project.run("work", "--burst", "--processes", "1")
    assert (again.code, len(stub.requests)) == (1, asked)


@pytest.mark.long
def test_a_run_stops_at_its_cap_and_others_go_on(project: Project, stub: LlmStub) -> None:
    paying(project, stub, None)
    tasks = project.tasks(*["?"] * 30, name="run.jsonl")
    sent = ("send", "crew", "--file", tasks, "--run", "v1")
    caps = ("--budget-usd", "9", "--budget-tokens", str(10 * TOKENS))
    ids = project.ok(*sent, *caps, "--json").json["task_ids"]
    done = project.run("work", "--burst", "--processes", "1")
    assert done.code == 1, done
    assert "nothing more runs of run v1: the budget of run v1 is spent" in done.err
    ended = project.streamed()
    assert sum(each.startswith("t-") for each in ended) == TASKS
    ran = sum(each.startswith("v1/") for each in ended)
    assert 10 <= ran <= 10 + AGENTS
    (budget,) = project.stats()["budgets"]
    assert (budget["run"], budget["spent"]["tokens"]) == ("v1", ran * TOKENS)
    left = next(task_id for task_id in ids if task_id not in ended)
    why = project.ok("why", left, "--json").json
    assert why["reason"] == "budget_spent"
    assert "agentpipe resume --run v1 --budget-tokens N" in why["next"]
    assert project.run("resume", "--run", "v2", "--budget-usd", "3").code == 2
    resumed = project.ok("resume", "--run", "v1", "--budget-tokens", str(90 * TOKENS), "--json")
    assert resumed.json["cap"] == {"usd": 9.0, "tokens": 90 * TOKENS}
    project.burst("--processes", "1")
    assert len(project.streamed()) == TASKS + 30


def test_a_refused_budget_leaves_the_one_that_the_fleet_has(project: Project) -> None:
    """Regression: the send failed, and workers had a cap in USD that stopped nothing."""
    unpriced(project)
    project.collection("crew", "./llm.yaml", context=CONTEXT, budget={"tokens": 9})
    project.ok("send", "crew", "?")
    (project.folder / "collection.yaml").unlink()
    project.collection("crew", "./llm.yaml", context=CONTEXT, budget={"usd": 5})
    assert project.run("send", "crew", "?").code == 2
    (budget,) = project.stats()["budgets"]
    assert budget["cap"] == {"usd": None, "tokens": 9}


@pytest.mark.long
def test_a_model_without_a_price_needs_a_cap_in_tokens(project: Project) -> None:
    unpriced(project)
    project.collection("crew", "./llm.yaml", context=CONTEXT, budget={"usd": 5})
    for command in (("check",), ("work", "--burst"), ("send", "crew", "?")):
        done = project.run(*command)
        assert done.code == 2, done
        assert "the model 'my-own' has no price" in done.out + done.err
    assert project.stats()["accepted"] == 0
    file = project.folder / "collection.yaml"
    file.unlink()
    project.collection("crew", "./llm.yaml", context=CONTEXT, budget={"usd": 5, "tokens": 9})
    project.ok("check")
    file.unlink()
    project.collection("crew", "./llm.yaml", context=CONTEXT)
    refused = project.run("send", "crew", "?", "--run", "v1", "--budget-usd", "1")
    assert (refused.code, project.stats()["accepted"]) == (2, 0)
    assert project.run("send", "crew", "?", "--budget-usd", "1").code == 2
    project.ok("send", "crew", "?", "--run", "v1", "--budget-tokens", "100")
