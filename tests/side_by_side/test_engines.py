"""The same MCP-Universe file with our engine and with theirs, and what only theirs can do.

Run by ``make test-mcpuniverse``, which creates the Python that has their package.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.agent_config import load_agent_config
from agentpipe.core.context import Context
from agentpipe.core.result import Result
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.base import Answer, open_engine
from agentpipe.engines.instance import Instance
from agentpipe.errors import AgentpipeError
from agentpipe.evaluation.evaluators import evaluate
from agentpipe.rollouts import samples
from tests.integration.project import Project
from tests.llm_stub import LlmStub, TokenIds, call, fail, hang, say
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.evaluation.evaluators import Evaluation
    from tests.llm_stub import Reply, Request

ROOT = Path(__file__).parents[2]
ODD = str(ROOT / "tests" / "mcp_server.py")
MARK = uuid.uuid4().hex
PATIENCE_S = 60.0
PLACE = "canary/of+the context"
# The format in which MCP-Universe's function-call agent wants the model's answer.
FINAL = {"thought": "Done.", "answer": {"said": PLACE, "n": 2}}
EVALUATORS = [
    {"func": "json -> get(said)", "op": "=", "value": "{{ PLACE }}"},
    {"func": "json -> get(n)", "op": "=", "value": 2},
]


@pytest.fixture(autouse=True)
def _servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our server in MCP-Universe's list format, and the Python of ``make mcpuniverse``."""
    stdio = {"command": sys.executable, "args": [ODD, MARK]}
    listed = {"odd": {"stdio": stdio, "env": {"T": "{{PLACE}}"}}}
    (tmp_path / "servers.json").write_text(json.dumps(listed))
    monkeypatch.setenv("AGENTPIPE_MCP_SERVERS", str(tmp_path / "servers.json"))
    python = ROOT / ".venv-mcpuniverse" / "bin" / "python"
    monkeypatch.setenv("AGENTPIPE_MCPUNIVERSE_PYTHON", str(python))


def _documents(url: str, type_: str = "function-call", **config: Any) -> Iterator[dict[str, Any]]:
    llm = {"model_name": "gpt-4o-mini", "base_url": url}
    yield {"kind": "llm", "spec": {"name": "llm-1", "type": "openai", "config": llm}}
    agent = {"llm": "llm-1", "instruction": "Be brief.", **config}
    yield {"kind": "agent", "spec": {"name": "it", "type": type_, "config": agent}}


@pytest.mark.parametrize("engine", ["llm", "mcpuniverse"])
def test_the_same_file_gives_the_same_by_either_engine(tmp_path: Path, engine: str) -> None:
    script = [call("odd__environ", text="T"), say(json.dumps(FINAL))]
    with LlmStub(script) as stub:
        file = tmp_path / "agent.yaml"
        file.write_text(yaml.safe_dump_all(_documents(stub.url, servers=[{"name": "odd"}])))
        opened = open_engine(load_agent_config(file), engine)
        env = {"OPENAI_API_KEY": "sk-its-own", "PLACE": PLACE}
        fields: dict[str, Any] = {
            "output_format": {"said": "text"},
            "evaluators": EVALUATORS,
            "seed": 7,
        }
        task = Task(question="What does {{ PLACE }} say?", **fields)
        answer, tracer, passed = asyncio.run(_asked(opened, task, Context(env)))
        requests = list(stub.requests)
    assert json.loads(answer) == {"said": PLACE, "n": 2}
    assert passed == [True, True]
    assert [request.authorization for request in requests] == ["Bearer sk-its-own"] * 2
    assert [request.seed for request in requests] == [7, 7]
    assert PLACE in requests[0].text
    usage = tracer.usage.to_dict()
    assert (usage["requests"], usage["input_tokens"], usage["output_tokens"]) == (2, 20, 10)
    records = [record["data"] for span in tracer.spans for record in span["records"]]
    (tool,) = (record for record in records if record["type"] == "tool")
    assert (tool["server"], tool["tool_name"], tool["arguments"]) == (
        "odd",
        "environ",
        {"text": "T"},
    )
    assert PLACE in str(tool["response"])
    assert sum(record["type"] == "llm" for record in records) == 2


def test_what_theirs_sends_and_ours_does_not(tmp_path: Path) -> None:
    bodies = {}
    for engine in ("llm", "mcpuniverse"):
        with LlmStub([say(json.dumps(FINAL))]) as stub:
            file = tmp_path / "agent.yaml"
            file.write_text(yaml.safe_dump_all(_documents(stub.url)))
            opened = open_engine(load_agent_config(file), engine)
            asyncio.run(_asked(opened, Task(question="How?"), Context({"OPENAI_API_KEY": "k"})))
            bodies[engine] = stub.requests[0].body
    ours, theirs = bodies["llm"], bodies["mcpuniverse"]
    assert set(ours) == {"model", "messages"}
    assert {key: value for key, value in theirs.items() if key not in ours} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "max_completion_tokens": 10000,
        "seed": 12345,
    }
    (message,) = theirs["messages"]
    assert message["role"] == "user"
    assert all(word in message["content"] for word in ("Be brief.", "How?", "step-by-step"))
    assert [each["content"] for each in ours["messages"]] == ["Be brief.", "How?"]


async def _asked(engine: Any, task: Task, context: Context) -> tuple[Any, Tracer, list[bool]]:
    instance, tracer = Instance("it", engine, context, in_thread=False), Tracer()
    try:
        with tracer.root():
            answer = await instance.answer(task, PATIENCE_S)
    finally:
        await instance.close()
    assert isinstance(answer, Answer)
    judged: Sequence[Evaluation] = answer.evaluations or await evaluate(
        task.evaluators, answer.value, task, context=context
    )
    return answer.value, tracer, [each.passed for each in judged]


# Runs in a worker.


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project on the embedded store, whose workers know the server and the Python."""
    folder = tmp_path / "project"
    folder.mkdir()
    store = f"sqlite:///{folder}/store"
    made = Project(folder, f"{store}/broker.db", f"{store}/results.db")
    for name in ("AGENTPIPE_MCP_SERVERS", "AGENTPIPE_MCPUNIVERSE_PYTHON"):
        made.environ[name] = os.environ[name]
    yield made
    made.kill()
    made.close()


def _collection(project: Project, stub: LlmStub, type_: str, **spec: Any) -> None:
    documents = _documents(stub.url, type_, servers=[{"name": "odd"}])
    project.write("theirs.yaml", yaml.safe_dump_all(documents))
    env = {"OPENAI_API_KEY": "sk-its-own-key-0815", "PLACE": PLACE}
    limits = {"time_limit": 30, "max_retries": 0, "context": [{"env": env}], **spec}
    project.collection("theirs", "./theirs.yaml", **limits)


def _react(answer: str) -> Reply:
    return say(json.dumps({"thought": "enough", "answer": answer}))


def test_its_react_agent_answers_and_a_failing_model_is_no_answer(project: Project) -> None:
    def script(request: Request) -> Reply:
        return fail(400) if "refuse" in request.text else _react("four")

    with LlmStub(script) as stub:
        _collection(project, stub, "react")
        right = {"func": "raw", "op": "=", "value": "four"}
        questions = ("2+2?", "please refuse", "again?")
        project.send(
            *({"question": q, "task_id": q, "evaluators": [right]} for q in questions), to="theirs"
        )
        project.burst("--processes", "1")
    results = project.by_id()
    outcomes = {question: result["outcome"] for question, result in results.items()}
    assert outcomes == {"2+2?": "ok", "please refuse": "agent_error", "again?": "ok"}
    assert results["2+2?"]["reward"] == 1.0
    assert results["2+2?"]["evaluation_results"][0]["config"]["op"] == "="
    assert results["please refuse"]["reward"] is None
    assert "sk-its-own" not in json.dumps(list(results.values()))


def test_a_simple_agents_task_that_needs_their_code_gets_it(project: Project) -> None:
    """A native agent with two tasks; the operator of one is MCP-Universe's."""
    with LlmStub([say("{}")]) as stub:
        _collection(project, stub, "basic")
        theirs = {"func": "json", "op": "github.check_repository", "op_args": {"owner": "x"}}
        ours = {"func": "raw", "op": "=", "value": "{}"}
        project.send({"question": "a", "task_id": "ours", "evaluators": [ours]}, to="theirs")
        project.send({"question": "b", "task_id": "theirs", "evaluators": [theirs]}, to="theirs")
        project.burst("--processes", "1")
    results = project.by_id()
    assert (results["ours"]["outcome"], results["ours"]["reward"]) == ("ok", 1.0)
    # GitHub is unreachable here: only their operator, which we do not have, can report that.
    (judged,) = results["theirs"]["evaluation_results"]
    assert "is MCP-Universe's" not in judged["error"] + judged["reason"]
    assert "BasicAgent" in str(results["theirs"]["trace"])
    assert "BasicAgent" not in str(results["ours"]["trace"])


def test_the_limit_and_a_killed_worker_leave_nothing(project: Project) -> None:
    with LlmStub(lambda request: hang() if "hang" in request.text else _react("x")) as stub:
        # Long enough to import mcpuniverse and start an MCP server on a busy machine.
        _collection(project, stub, "react", time_limit=25)
        fleet = project.work("--processes", "1").ready(1)
        project.send({"question": "hang", "task_id": "first"}, "fine", to="theirs")
        project.until(delivered=2)
        outcomes = {result["outcome"] for result in project.results()}
        assert outcomes == {"limit", "ok"}
        project.send({"question": "hang", "task_id": "second"}, to="theirs")
        wait_until(
            lambda: stub.requests[-1].text.count("hang") and _servers_of_ours(), 30, "it runs"
        )
        (worker,) = fleet.pids
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not _servers_of_ours(), PATIENCE_S, "its server has ended")
        fleet.stop()


def _servers_of_ours() -> set[int]:
    return processes_with(MARK)


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTPIPE_MCPUNIVERSE_PYTHON", sys.executable)
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump_all(_documents("http://127.0.0.1:1/v1", "react")))
    with pytest.raises(AgentpipeError, match=r"has no mcpuniverse: .* -m pip install"):
        open_engine(load_agent_config(file))


@pytest.mark.parametrize("own_url", [True, False])
def test_its_agent_is_recorded_and_its_judge_is_not(project: Project, *, own_url: bool) -> None:
    """Address and key come from the config or the context; the real key stays in the worker."""

    def script(request: Request) -> Reply:
        if "judge" in request.text:
            return say("correct: yes")
        return replace(_react("four"), ids=TokenIds([1, 2], [3, 4]))

    key = "sk-real-0123456789abcdef"
    with LlmStub(script) as stub, LlmStub(script) as other:
        (llm, agent) = _documents(stub.url, "react", servers=[{"name": "odd"}])
        judges = {"OPENAI_BASE_URL": other.url if own_url else stub.url}
        env = {**judges, "OPENAI_API_KEY": key, "PLACE": PLACE}
        if not own_url:
            del llm["spec"]["config"]["base_url"]
        project.write("theirs.yaml", yaml.safe_dump_all([llm, agent]))
        limits = {"time_limit": 60, "max_retries": 0, "context": [{"env": env}]}
        project.collection("theirs", "./theirs.yaml", record={"tokens": "require"}, **limits)
        right = {"question": "judge this", "correct_answer": "four"}
        judge = {"func": "raw", "op": "google_search.llm_as_a_judge", "op_args": right}
        project.send(*({"question": q, "evaluators": [judge]} for q in ("a", "b")), to="theirs")
        project.burst("--processes", "1")
        asked = [*stub.requests, *other.requests]
    results = project.results()
    assert [each["outcome"] for each in results] == ["ok", "ok"], results
    assert [each["reward"] for each in results] == [1.0, 1.0]
    for result in results:
        (sample,) = samples(Result(**result))
        assert (sample.input_ids, sample.loss_mask) == ([1, 2, 3, 4], [0, 0, 1, 1])
        assert (result["usage"]["requests"], result["usage"]["input_tokens"]) == (1, 10)
        records = [each["data"] for span in result["trace"] for each in span["records"]]
        assert sum(record["type"] == "llm" for record in records) == 1
    assert {each.authorization for each in asked} == {f"Bearer {key}"}
    assert len(asked) == 4
    assert sum("judge" in each.text for each in (other if own_url else stub).requests) == 2


def test_two_servers_of_one_agent_are_not_recorded(project: Project) -> None:
    with LlmStub([_react("four")]) as stub:
        (llm, agent) = _documents(stub.url, "react")
        second = {
            **llm,
            "spec": {**llm["spec"], "name": "llm-2", "config": {"base_url": "http://x"}},
        }
        project.write("theirs.yaml", yaml.safe_dump_all([llm, second, agent]))
        project.collection("theirs", "./theirs.yaml", record={"tokens": "try"}, max_retries=0)
        project.send("2+2?", to="theirs")
        project.burst("--processes", "1")
        assert not stub.requests
    (result,) = project.results()
    assert "several values of base_url" in result["error"]["message"]
