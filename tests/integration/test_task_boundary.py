"""A task is data: it loads no code, and reads no credentials of its context."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from agentpipe.brokers.records import Offer
from tests.llm_stub import LlmStub, say

if TYPE_CHECKING:
    from tests.integration.project import Project
    from tests.llm_stub import Reply, Request

KEY = "canary-5f0c-key"
CONTEXT = {"env": {"API_KEY": KEY, "OPENAI_API_KEY": KEY, "ACCOUNT": "zoe"}}
OUTSIDE = {"func": "os:system", "op": "=", "value": 0}


def _task(name: str, *evaluators: dict[str, Any], question: str = "echo hi") -> dict[str, Any]:
    return {"schema": 1, "task_id": name, "question": question, "evaluators": list(evaluators)}


def _forge(project: Project, *tasks: dict[str, Any]) -> None:
    """Put tasks into the broker that our senders would refuse."""
    store = project.open_store()
    offers = [Offer(task["task_id"], orjson.dumps(task)) for task in tasks]
    store.offer("toys", offers, round_robin=True)
    store.close()


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_task_with_a_function_that_is_not_offered_dies_before_its_agent_runs(
    project: Project,
) -> None:
    project.collection(context=[CONTEXT])
    project.send("echo first")
    absolute = str(project.write("../outside.py", "open('ran', 'w').close()\ndef f(a): return 1"))
    marker = project.folder / "ran"
    attacks: dict[str, dict[str, Any]] = {
        "shell": OUTSIDE,
        "eval": {"func": "builtins:eval"},
        "absolute": {"func": f"{absolute}:f"},
        "parent": {"func": "../outside.py:f"},
        "dotted": {"func": "toys:os.system", "op": "=", "value": 0},
        "imported": {"func": "toys:Path"},
        "steps": {"func": "raw" + " -> raw" * 200_000},
        "many": {"func": "raw", **{f"k{n}": n for n in range(100_000)}},
    }
    question = f"echo touch {marker}"
    _forge(
        project,
        *(_task(name, each, question=question) for name, each in attacks.items()),
        _task("crowd", *[{"func": "raw"}] * 100_000, question=question),
    )
    project.ok("send", "toys", "echo last")
    project.burst("--processes", "1")
    dead = {each["task_id"]: each for each in project.ok("dead", "list", "--json").json["dead"]}
    assert dead.keys() == {*attacks, "crowd"}
    assert all("evaluators" in each["reason"] for each in dead.values())
    assert "standard library" in dead["shell"]["reason"]
    assert "without `..`" in dead["parent"]["reason"]
    assert {each["outcome"] for each in dead.values()} == {"infra_error"}
    assert not marker.exists()
    assert len(project.journal("started")) == len(("first", "last"))


def test_send_and_check_refuse_a_function_that_is_not_offered(project: Project) -> None:
    file = project.tasks({"question": "echo hi", "evaluators": [OUTSIDE]})
    project.collection(schedule=[{"cron": "0 3 * * *", "tasks": file}])
    for command in (("send", "toys", "--file", file), ("check",), ("check", file)):
        done = project.run(*command)
        assert done.code == 2, done
        assert "standard library: write a function of yours" in done.err + done.out
    assert not project.results()


@pytest.mark.long
def test_a_collection_names_further_modules(project: Project) -> None:
    project.collection(evaluators=["far.judges"])
    far = project.folder.parent / "far"
    far.mkdir()
    (far / "judges.py").write_text("def good(answer): return answer == 'hi'\n")
    env = {"PYTHONPATH": str(far.parent)}
    file = project.tasks(_task("named", {"func": "far.judges:good"}))
    project.ok("send", "toys", "--file", file, env=env)
    project.burst("--processes", "1", env=env)
    assert project.by_id()["named"]["reward"] == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("os", "standard library"), ("a b", "not a module"), ("../x.py", "not a module")],
)
def test_a_collection_names_modules_of_its_own(project: Project, wrong: str, said: str) -> None:
    project.collection(evaluators=[wrong])
    done = project.run("check")
    assert done.code == 2
    assert said in done.out


def _oracle(**more: Any) -> dict[str, Any]:
    return {"func": "raw", "op": "in", "value": "{{ API_KEY }}", **more}


def test_an_evaluator_is_no_oracle_of_a_credential(project: Project) -> None:
    project.collection(context=[CONTEXT])
    guesses = [_task(f"guess-{n}", _oracle(), question=f"echo {KEY[:n]}") for n in range(1, 4)]
    arguments = {"func": "raw", "op_args": {"deep": ["{{ OPENAI_API_KEY }}"]}}
    visible = {"func": "raw", "op": "=", "value": "{{ACCOUNT}}"}
    project.send(
        *guesses, _task("arguments", arguments), _task("visible", visible, question="echo zoe")
    )
    project.burst("--processes", "1")
    results = project.by_id()
    assert results["visible"]["reward"] == 1
    hidden = [result for name, result in results.items() if name != "visible"]
    assert {(each["outcome"], each["reward"]) for each in hidden} == {("infra_error", None)}
    dead = project.ok("dead", "list", "--json").json["dead"]
    assert len(dead) == len(hidden)
    assert all("`public: [" in each["reason"] for each in dead)
    assert KEY not in json.dumps([results, dead])


def test_a_public_name_is_read_and_no_other(project: Project) -> None:
    env = {"PASS_RATE": "high", "PLACE": "north"}
    project.collection(context=[{"env": env, "public": ["PASS_RATE"]}])
    public = {"func": "raw", "op": "=", "value": "{{ PASS_RATE }}"}
    other = {"func": "raw", "op": "=", "value": "{{ PLACE }}"}
    project.send(
        _task("public", public, question="echo high"), _task("other", other, question="echo north")
    )
    project.burst("--processes", "1")
    results = project.by_id()
    assert results["public"]["reward"] == 1
    assert "`public: [PLACE]`" in results["other"]["error"]["message"]


def test_a_question_sends_no_credential_to_the_model_and_an_instruction_sees_all(
    project: Project,
) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        asked.extend(each["content"] for each in request.body["messages"])
        return say("hi")

    project.collection("toys", "./llm.yaml", context=[CONTEXT])
    with LlmStub(answer) as stub:
        config = {"model": "openai:gpt-4o-mini", "base_url": stub.url}
        config["instruction"] = "For {{ API_KEY }}."
        spec = {"name": "llm", "type": "llm", "config": config}
        project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
        question = "{{ OPENAI_API_KEY }} {{API_KEY}} {{ACCOUNT}} {{ account }}"
        project.send(_task("asks", question=question))
        project.burst("--processes", "1")
    instruction, sent = asked
    assert instruction == f"For {KEY}."
    assert sent == "{{ OPENAI_API_KEY }} {{API_KEY}} zoe {{ account }}"
    assert project.by_id()["asks"]["outcome"] == "ok"


def _wanting(name: str) -> dict[str, Any]:
    return _task(f"wants-{name}", {"func": "raw", "op": "=", "value": f"{{{{ {name} }}}}"})


def test_check_names_scheduled_tasks_that_no_agent_would_run(project: Project) -> None:
    file = project.tasks(_task("fine", {"func": "raw"}), _wanting("API_KEY"), _wanting("ACCOUNT"))
    schedule = [{"cron": "0 3 * * *", "tasks": file}]
    project.collection("toys", context=[CONTEXT, CONTEXT], schedule=schedule)
    done = project.run("check", "--json")
    (problem,) = done.json["problems"]
    assert (done.code, problem["file"], problem["line"]) == (2, file, 2)
    assert problem["message"].startswith("evaluators[0]: value: {{ API_KEY }} is hidden")
    assert "`public: [API_KEY]`" in problem["message"]
    assert KEY not in done.out


def test_check_notes_what_only_some_contexts_hide_and_what_is_asked_as_it_stands(
    project: Project,
) -> None:
    file = project.tasks(_wanting("API_KEY"), {"question": "Is it {{ API_KEY }}?"})
    schedule = [{"cron": "0 3 * * *", "tasks": file}]
    contexts = [CONTEXT, {**CONTEXT, "public": ["API_KEY"]}]
    spec = {"name": "llm", "type": "llm", "config": {"model": "openai:gpt-4o-mini"}}
    project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.collection("asks", "./llm.yaml", context=contexts, schedule=schedule)
    refused, asked = project.ok("check", "--json").json["notes"]
    assert "tasks.jsonl:1: evaluators[0]: value: {{ API_KEY }} is hidden" in refused
    assert "1 of 2 contexts hide it" in refused
    assert "tasks.jsonl:2: question: {{ API_KEY }} is hidden" in asked
    assert "as it stands" in asked


def test_check_says_nothing_of_what_tasks_may_read(project: Project) -> None:
    file = project.tasks(_wanting("API_KEY"), _wanting("NONE_SUCH_KEY"), "echo {{ API_KEY }}")
    schedule = [{"cron": "0 3 * * *", "tasks": file}]
    public = {**CONTEXT, "public": ["API_KEY"]}
    project.collection(context=[public], schedule=schedule)
    assert project.ok("check", "--json").json == {"ok": True, "problems": [], "notes": []}


def test_check_of_task_files_goes_by_the_collections_beside_them(project: Project) -> None:
    file = project.tasks(_wanting("API_KEY"), "{{ OPENAI_API_KEY }}?", _wanting("ACCOUNT"))
    alone = project.ok("check", file, "--json").json
    assert (alone["ok"], [each["runs"] for each in alone["files"]]) == (True, ["native"])
    refused, asked = alone["notes"]
    assert "tasks.jsonl:1: " in refused
    assert "`public: [API_KEY]`" in refused
    assert "`public: [OPENAI_API_KEY]`" in asked
    assert refused in project.ok("check", file).out
    project.collection(context=[CONTEXT])
    beside = project.run("check", "collection.yaml", file, "--json")
    assert beside.code == 2
    (problem,) = beside.json["problems"]
    assert (problem["line"], "API_KEY" in problem["message"]) == (1, True)
    (project.folder / "collection.yaml").unlink()
    project.collection(context=[{**CONTEXT, "public": ["API_KEY", "OPENAI_API_KEY", "ACCOUNT"]}])
    public = project.ok("check", "collection.yaml", file, "--json").json
    assert (public["ok"], public["notes"]) == (True, [])
