"""Evaluators with ``isolation: process``: their failures affect only their task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.llm_stub import LlmStub, say
from tests.support import slowness

if TYPE_CHECKING:
    from tests.integration.project import Done, Project

CANARY = "canary-judge-71c4"
OWN = "workers-own-88e1"
JUDGE = """
import json
import os
import re
import threading
import time
from pathlib import Path

import agentpipe

(Path(__file__).parent / "imported").open("a").write(f"{os.getpid()}\\n")


def judge(answer, value, task):
    match value.split():
        case ["pid"]:
            return True, str(os.getpid())
        case ["environ"]:
            return True, json.dumps(dict(os.environ))
        case ["print"]:
            print("the evaluator says", os.environ["TOKEN"])
            return 0.5, task.question
        case ["exit", code]:
            os._exit(int(code))
        case ["system_exit"]:
            raise SystemExit(3)
        case ["die", number]:
            os.kill(os.getpid(), int(number))
        case ["sleep"]:
            time.sleep(600)
        case ["hold"]:
            re.match("(a+)+$", "a" * 60 + "b")
        case ["later"]:
            threading.Timer(0.05, os._exit, [9]).start()
            return True
        case ["service"]:
            return serve()
        case ["credential"]:
            raise agentpipe.InfraError("401", permanent=True)
        case ["raise"]:
            raise LookupError("no such gold")
    return answer == "hi"


def serve():
    tried = Path(__file__).parent / "tried"
    if not tried.exists():
        tried.touch()
        raise ConnectionError("the gold is elsewhere")
    return True


async def waiting(answer):
    return answer == "hi"


def is_value(answer, value):
    return value == "zoe"
"""


@pytest.fixture
def judged(project: Project) -> Project:
    """A project whose agents and evaluators run in separate processes."""
    project.write("judge.py", JUDGE)
    context = {"env": {"TOKEN": CANARY, "ACCOUNT": "zoe", "OTHER": "ann"}, "public": ["ACCOUNT"]}
    limits: dict[str, Any] = {
        "time_limit": round(6 * slowness()),
        "max_retries": 2,
    }  # A process starts in it.
    project.collection(isolation="process", context=[context], **limits)
    return project


def _task(value: str) -> dict[str, Any]:
    evaluators = [{"func": "judge:judge", "value": value}]
    return {"task_id": value, "question": "echo hi", "evaluators": evaluators}


def _judge(project: Project, *tasks: str | dict[str, Any]) -> tuple[dict[str, Any], Done]:
    """Run each task once; return the results by id, and the finished command."""
    project.send(*(_task(each) if isinstance(each, str) else each for each in tasks))
    done = project.burst("--processes", "1", env={"WORKERS_OWN": OWN})
    assert len(project.journal("started")) == len(tasks)
    return project.by_id(), done


QUICK = {
    "exit 0": "the evaluators' process ended with 0",
    "exit 7": "the evaluators' process ended with 7",
    "system_exit": "SystemExit",
    "die 11": "the evaluators' process was killed by signal 11",
    "raise": "no such gold",
}
FROZEN = dict.fromkeys(("sleep", "hold"), "took longer than ")


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
@pytest.mark.parametrize("broken", [QUICK, pytest.param(FROZEN, marks=pytest.mark.long)])
def test_what_an_evaluator_does_breaks_its_own_verdict_and_no_worker(
    judged: Project, broken: dict[str, str]
) -> None:
    results, done = _judge(judged, *broken, "right")
    for name, words in broken.items():
        assert results[name]["outcome"] == "eval_error", results[name]
        assert (results[name]["result"], results[name]["reward"]) == ("hi", None)
        assert words in results[name]["error"]["message"]
        (evaluation,) = results[name]["evaluation_results"]
        assert (evaluation["response"], evaluation["config"]["value"]) == ("hi", name)
    assert (results["right"]["outcome"], results["right"]["reward"]) == ("ok", 1)
    assert {result["attempt"] for result in results.values()} == {1}
    assert len({result["worker"] for result in results.values()}) == 1, done.err


@pytest.mark.long
def test_the_worker_imports_nothing_and_its_environment_is_its_own(judged: Project) -> None:
    results, done = _judge(judged, "environ", "pid", "print")
    (environ,) = results["environ"]["evaluation_results"]
    assert '"ACCOUNT": "zoe"' in environ["reason"]
    assert OWN not in environ["reason"]
    assert CANARY not in str(results) + done.err
    assert "the evaluator says ***" in done.err
    assert (results["print"]["reward"], results["print"]["outcome"]) == (0.5, "ok")
    (shown,) = results["print"]["evaluation_results"]
    assert shown["reason"] == "echo hi"
    importers = set((judged.folder / "imported").read_text().split())
    agents = {str(entry["pid"]) for entry in judged.journal()}
    workers = {result["worker"].split("-")[-2] for result in results.values()}
    assert importers
    assert not importers & (agents | workers)


@pytest.mark.long
def test_an_evaluator_that_spoils_its_process_spoils_no_other_task(judged: Project) -> None:
    names = [f"right {number}" for number in range(3)]
    results, _ = _judge(judged, "later", *names)
    assert {results[name]["reward"] for name in names} == {1}


@pytest.mark.long
def test_a_service_that_fails_is_asked_again_and_the_agent_is_not(judged: Project) -> None:
    results, _ = _judge(judged, "service", "credential")
    assert (results["service"]["outcome"], results["service"]["attempt"]) == ("ok", 1)
    assert results["credential"]["outcome"] == "eval_error"
    assert results["credential"]["error"]["permanent"] is True


def test_what_tasks_may_read_is_the_same_in_the_evaluators_process(judged: Project) -> None:
    reads = [
        {"func": "judge:waiting"},
        {"func": "judge:is_value", "value": "{{ ACCOUNT }}"},
    ]
    results, _ = _judge(judged, {**_task("reads"), "evaluators": reads})
    assert results["reads"]["reward"] == 1


@pytest.mark.long
def test_evaluators_of_commands_run_in_a_process_too(project: Project) -> None:
    project.write("judge.py", JUDGE)
    spec = {"name": "echo", "type": "command", "config": {"argv": ["printf", "hi"]}}
    project.write("agent.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.collection(isolation="process")
    project.send(_task("exit 5"), _task("right"))
    project.burst("--processes", "1")
    results = project.by_id()
    assert results["exit 5"]["outcome"] == "eval_error"
    assert results["exit 5"]["result"] == "hi"
    assert results["right"]["reward"] == 1


@pytest.mark.long
def test_a_models_agent_in_a_process_reads_the_public_names_only(project: Project) -> None:
    env = {"OPENAI_API_KEY": CANARY, "ACCOUNT": "zoe", "OTHER": "ann-5566"}
    project.collection(isolation="process", context=[{"env": env, "public": ["ACCOUNT"]}])
    with LlmStub([say("hi")]) as stub:
        config = {"model": "openai:gpt-4o-mini", "base_url": stub.url}
        spec = {"name": "llm", "type": "llm", "config": config}
        project.write("agent.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
        project.send("{{ ACCOUNT }} and {{ OTHER }}")
        project.burst("--processes", "1")
    (request,) = stub.requests
    assert request.body["messages"][-1]["content"] == "zoe and {{ OTHER }}"
