"""Workers' logs: each line names its run, and none has a question or an answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project

QUESTION, ANSWER, SECRET = "FRAGEKANARIE", "ANTWORTKANARIE", "GEHEIMKANARIE"
VERBS = ("murmur", "echo", "raise", "infra", "bytes", "sleep")


def test_lines_of_agents_name_task_and_agent_wherever_they_run(project: Project) -> None:
    project.collection()
    project.collection("plain", "./plain.yaml")
    project.collection("apart", "./plain.yaml", isolation="process")
    for name in ("toys", "plain", "apart"):
        task = {"task_id": f"of-{name}", "question": "murmur hi"}
        project.send(task, to=name)
    said = project.burst("--processes", "1", "--log-format", "json").err
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    bound = {(line["task"], line["agent"]) for line in lines if "at work" in line["message"]}
    assert bound == {(f"of-{name}", f"{name}_0") for name in ("toys", "plain", "apart")}


def test_text_lines_end_with_the_run(project: Project) -> None:
    project.collection()
    project.send({"task_id": "one", "question": "murmur hi"})
    (line,) = [x for x in project.burst("--processes", "1").err.splitlines() if "at work" in x]
    assert line.endswith("at work task=one agent=toys_0")


@pytest.mark.long
def test_no_question_answer_or_secret_is_logged_at_info(project: Project) -> None:
    project.environ["TOKEN_A"] = SECRET
    context = [{"env": {"WHO": "A", "TOKEN": "${TOKEN_A}"}}]
    for name, isolation in (("toys", "coroutine"), ("apart", "process")):
        limits: dict[str, Any] = {
            "context": context,
            "max_retries": 1,
            "time_limit": 1,
            "max_queue_size": 50,
        }
        project.collection(name, **limits, isolation=isolation)
        answers = [{"func": "raw", "op": "=", "value": ANSWER}]
        asked = [f"{verb} {QUESTION} {ANSWER}" for verb in VERBS]
        tasks = [{"question": each, "evaluators": answers} for each in asked]
        leaks = [f"leak {way}" for way in ("return", "raise", "retry", "span", "log")]
        project.ok("send", name, "--file", project.tasks(*tasks, *leaks, name=f"{name}.jsonl"))
    for log_format in ("text", "json"):
        done = project.burst("--processes", "1", "--log-format", log_format)
        assert done.err
        for canary in (QUESTION, ANSWER, SECRET):
            assert canary not in done.err
        project.ok("dead", "replay", "--all")
    outcomes = {result["outcome"] for result in project.results()}
    assert {"ok", "agent_error", "infra_error"} <= outcomes


def test_a_process_of_plain_dramatiq_logs_a_misspelt_setting(project: Project) -> None:
    project.collection()
    project.environ["AGENTPIPE_LEASES"] = "5"
    booted = project.start("-c", "import agentpipe.actors")
    _, logged = booted.communicate(timeout=60)
    assert "AGENTPIPE_LEASES is not a setting: did you mean AGENTPIPE_LEASE_S?" in logged
