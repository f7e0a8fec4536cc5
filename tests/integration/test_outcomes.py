"""Outcomes of runs that fail, hang, or return an invalid answer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project

NO_ANSWERS = {
    "bytes": "bytes",
    "set": "set",
    "nan": "nan",
    "cycle": "cycle",
    "deep": "deeper than",
    "object": "Unprintable",
    "objects": "Unprintable",
    "key": "keys must be strings, got Unprintable",
    "huge": "an integer beyond 64 bits",
}
AGENT_ERRORS = {
    "raise so": "so",
    "hostile-error": "cannot be shown",
    "unreadable-error": "nothing can be read of it",
    "exit": "SystemExit",
    "keyboard": "KeyboardInterrupt",
    "stop": "StopIteration",
    "cancelled": "cancelled itself",
    "base": "at the root",
    "nonsense": "nonsense",
    **NO_ANSWERS,
}
CHAIN = {"func": "raw", "op": "=", "value": "right"}


@pytest.fixture
def lively(project: Project) -> Project:
    """A project with agents on the event loop and in threads, in one worker."""
    for name, config in (("toys", "./agent.yaml"), ("plain", "./plain.yaml")):
        project.collection(name, config, number=4, time_limit=60, max_retries=2)
    return project


def _send_to_both(project: Project, tasks: list[dict[str, Any]]) -> None:
    for name in ("toys", "plain"):
        own = [{**task, "task_id": f"{name} {task['question']}"} for task in tasks]
        sent = project.ok("send", name, "--file", project.tasks(*own), "--json").json
        assert sent["accepted"] == len(tasks)


@pytest.mark.long
def test_whatever_an_agent_does_its_task_is_answered_and_the_worker_lives(lively: Project) -> None:
    questions = [
        *AGENT_ERRORS,
        "big",
        "odd-text x",
        "controls",
        "infra",
        "refused",
        "echo at the end",
    ]
    _send_to_both(lively, [{"question": question} for question in questions])
    done = lively.burst("--processes", "1")
    assert "replaced" not in done.err
    results = lively.by_id()
    assert len(results) == 2 * len(questions)
    for task_id, result in results.items():
        question = task_id.partition(" ")[2]
        expected = "ok"
        if question in AGENT_ERRORS:
            expected = "agent_error"
            assert AGENT_ERRORS[question] in result["error"]["message"], result
            assert result["result"] is None
            assert result["attempt"] == 1
        if question in ("infra", "refused"):
            expected = "infra_error"
            assert result["attempt"] == 3
        assert (task_id, result["outcome"]) == (task_id, expected), result
    assert len({result["worker"] for result in results.values()}) == 1
    assert len(results["toys big"]["result"]) == 5_000_000
    assert results["toys odd-text x"]["result"] == results["plain odd-text x"]["result"] == "x"
    assert results["plain echo at the end"]["result"] == "at the end"
    _assert_retries_were_counted(lively)
    _assert_harmless_on_a_terminal(lively)


@pytest.mark.long
def test_a_surrogate_costs_no_run(project: Project) -> None:
    isolations = {"toys": "coroutine", "plain": "thread", "apart": "process"}
    for name, isolation in isolations.items():
        project.collection(name, "./agent.yaml", isolation=isolation)
        project.send({"task_id": name, "question": "surrogate"}, to=name)
    project.burst("--processes", "1")
    answers = {result["collection"]: result["result"] for result in project.by_id().values()}
    assert answers == dict.fromkeys(isolations, "\ufffd")


def _assert_retries_were_counted(project: Project) -> None:
    runs = Counter(entry["task_id"].partition(" ")[2] for entry in project.journal("started"))
    assert (runs.pop("infra"), runs.pop("refused")) == (6, 6)
    assert set(runs.values()) == {2}
    dead = project.ok("dead", "list", "--json").json
    assert {letter["outcome"] for letter in dead["dead"]} == {"infra_error"}
    assert dead["total"] == 4
    dropped = dead["dead"][0]["task_id"]
    assert project.ok("dead", "drop", dropped, "--json").json == {"dropped": 1}
    assert project.stats()["dead"] == 3


def _assert_harmless_on_a_terminal(project: Project) -> None:
    for command in ("tail --from beginning --timeout 0", "dead list", "dead show plain~refused"):
        done = project.ok(*(word.replace("~", " ") for word in command.split()))
        assert all(character.isprintable() or character == "\n" for character in done.out)
        assert "Traceback" not in done.err
    tail = project.ok("tail", "--from", "beginning", "--timeout", "0").out
    assert "[red]markup[/red]" in tail
    assert len(tail.splitlines()) == len(project.results())


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_infrastructure_is_retried_agents_are_not_and_evaluators_are_told_apart(
    lively: Project,
) -> None:
    tasks: list[dict[str, Any]] = [
        {"task_id": "recovers", "question": "fail-until-run 3"},
        {"task_id": "never", "question": "infra"},
        {"task_id": "agent", "question": "raise a bug"},
        {"task_id": "right", "question": "echo right", "evaluators": [CHAIN]},
        {"task_id": "half", "question": "echo right", "evaluators": [CHAIN, CHAIN | {"op": "<"}]},
        {"task_id": "wrong", "question": "echo wrong", "evaluators": [CHAIN]},
        {
            "task_id": "judge",
            "question": "echo right",
            "evaluators": [CHAIN, {"func": "toys:broken_judge"}],
        },
        {"task_id": "stale", "question": "echo late", "deadline": 1},
    ]
    lively.send(*tasks)
    lively.burst("--processes", "1")
    results = lively.by_id()
    shown = {
        task_id: (result["outcome"], result["attempt"], result["reward"])
        for task_id, result in results.items()
    }
    assert shown == {
        "recovers": ("ok", 3, None),
        "never": ("infra_error", 3, None),
        "agent": ("agent_error", 1, None),
        "right": ("ok", 1, 1.0),
        "half": ("ok", 1, 0.5),
        "wrong": ("ok", 1, 0.0),
        "judge": ("eval_error", 1, None),
        "stale": ("stale", 0, None),
    }
    assert "the judge is ill" in results["judge"]["error"]["message"]
    assert results["judge"]["result"] == "right"
    assert results["stale"]["started_at"] is None
    assert "toys.py" in results["agent"]["error"]["traceback"]
    (dead,) = lively.ok("dead", "list", "--json").json["dead"]
    assert dead["task_id"] == "never"
    assert "stale" not in [entry["task_id"] for entry in lively.journal()]


@pytest.mark.long
@pytest.mark.every_broker
def test_an_answer_waits_for_its_evaluators_service_and_the_agent_runs_once(
    project: Project,
) -> None:
    project.collection(max_retries=2)
    calls, opening = project.folder / "calls", project.folder / "open"
    recovers = {"func": "toys:judge_in_time", "value": [str(calls), 2], "name": "judge"}
    closed = {"func": "toys:judge_when_open", "value": str(opening)}
    refused = {"func": "toys:judge_without_key"}
    project.send(
        {"task_id": "recovers", "question": "echo right", "evaluators": [recovers]},
        {"task_id": "closed", "question": "echo right", "evaluators": [CHAIN, closed]},
        {"task_id": "refused", "question": "echo right", "evaluators": [refused]},
    )
    project.burst("--processes", "1")
    results = project.by_id()
    shown = {
        task_id: (result["outcome"], result["attempt"], result["reward"], result["result"])
        for task_id, result in results.items()
    }
    assert shown == {
        "recovers": ("ok", 1, 0.5, "right"),
        "closed": ("eval_error", 1, None, "right"),
        "refused": ("eval_error", 1, None, "right"),
    }
    assert results["recovers"]["rewards"] == {"judge": 0.5}
    assert len(calls.read_text().splitlines()) == 3
    assert [len(result["trace"]) for result in results.values()] == [1, 1, 1]
    assert "the judge of right is away" in results["closed"]["error"]["message"]
    assert results["refused"]["error"]["permanent"]
    dead = {each["task_id"]: each for each in project.ok("dead", "list", "--json").json["dead"]}
    assert set(dead) == {"closed", "refused"}
    assert dead["closed"]["outcome"] == "eval_error"
    assert "an evaluator's service failed (ConnectionError)" in dead["closed"]["reason"]

    opening.write_text("")
    replayed = project.ok("dead", "replay", "closed", "--json").json
    assert replayed["replayed"] == 1
    project.burst("--processes", "1")
    (judged,) = [each for each in project.by_id().values() if each["replay_of"] == "closed"]
    assert (judged["outcome"], judged["reward"], judged["result"]) == ("ok", 1.0, "right")
    assert (judged["attempt"], len(judged["trace"])) == (1, 1)
    started = Counter(entry["task_id"] for entry in project.journal("started"))
    assert started == {"recovers": 1, "closed": 1, "refused": 1}


@pytest.mark.long
def test_runs_beyond_their_time_limit_are_answered_wherever_they_hang(project: Project) -> None:
    for name, config in (("toys", "./agent.yaml"), ("plain", "./plain.yaml")):
        project.collection(name, config, number=2, time_limit=3)
    project.ok("send", "plain", "--file", project.tasks("block 60", name="plain.jsonl"))
    hanging = ("swallow 60", "sleep 60", "block 60")
    project.ok("send", "toys", "--file", project.tasks(*hanging, name="loop.jsonl"))
    project.ok("send", "toys", "--file", project.tasks(*["sleep 0.1"] * 20, name="good.jsonl"))
    done = project.burst("--processes", "2", "--slots", "4")
    results = project.by_id()
    late = {task_id for task_id, result in results.items() if result["outcome"] == "limit"}
    assert late == {"plain-0", "loop-0", "loop-1", "loop-2"}
    assert Counter(result["outcome"] for result in results.values()) == {"limit": 4, "ok": 20}
    assert {result["attempt"] for result in results.values()} == {1}
    # The last of them blocked the loop: the log names the place, and the process was replaced.
    assert "isolation: thread" in done.err
    assert "toys.py" in done.err
