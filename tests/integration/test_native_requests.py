"""The native engine's requests for MCP-Universe's files, as docs/from-mcp-universe.md says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.task import Task
from tests.llm_stub import LlmStub, call, say

if TYPE_CHECKING:
    from tests.integration.llm_bench import Bench

QUESTION = Task(question="How much is {{ N }}?")
ENV = {"OPENAI_API_KEY": "k", "N": "6*7"}


def documents(url: str, type_: str, llm: dict[str, Any], **agent: Any) -> list[dict[str, Any]]:
    config = {"model_name": "gpt-4o", "base_url": url, **llm}
    spec = {"name": "a", "type": type_, "config": {"llm": "l", **agent}}
    return [
        {"kind": "llm", "spec": {"name": "l", "type": "openai", "config": config}},
        {"kind": "agent", "spec": spec},
    ]


def body_of(
    bench: Bench, type_: str, task: Task = QUESTION, llm: Any = None, **agent: Any
) -> dict[str, Any]:
    with LlmStub([say("42")]) as stub:
        bench.ask(bench.open(*documents(stub.url, type_, llm or {}, **agent)), task, env=ENV)
    (request,) = stub.requests
    return request.body


@pytest.mark.parametrize("type_", ["basic", "function-call"])
def test_only_the_model_and_the_messages_without_settings(bench: Bench, type_: str) -> None:
    body = body_of(bench, type_, instruction="Be brief.")
    assert body == {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How much is 6*7?"},
        ],
    }
    (user,) = body_of(bench, type_)["messages"]
    assert user["role"] == "user"


def test_the_settings_that_the_file_has_and_the_tasks_own(bench: Bench) -> None:
    given = {
        "temperature": 0.2,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.3,
        "max_completion_tokens": 99,
        "seed": 1,
        "reasoning_effort": "low",
    }
    # parallel_tool_calls is only valid with tools, and is not sent without them.
    body = body_of(bench, "basic", llm={**given, "parallel_tool_calls": False})
    assert {key: body[key] for key in given} == given
    assert set(body) == {"model", "messages", *given}
    own = body_of(bench, "basic", Task(question="?", seed=7, sampling={"top_p": 0.5}), llm=given)
    assert (own["seed"], own["top_p"], own["temperature"]) == (7, 0.5, 0.2)


def test_the_shape_of_the_answer_ends_the_question(bench: Bench) -> None:
    task = Task(question="?", output_format={"n": "a number"})
    (message,) = body_of(bench, "function-call", task)["messages"]
    assert message["content"].startswith("?\n\nAnswer with JSON of this shape and nothing else")
    assert json.loads(message["content"].partition("around it:\n")[2]) == {"n": "a number"}


def test_a_later_request_counts_no_steps(bench: Bench) -> None:
    script = [call("odd__echo", text="x"), say("done")]
    with LlmStub(script) as stub:
        engine = bench.engine(stub.url, servers=[bench.odd()], max_iterations=3)
        bench.ask(engine, QUESTION, env=ENV)
    first, second = (request.body for request in stub.requests)
    assert [each["role"] for each in second["messages"]] == ["user", "assistant", "tool"]
    assert second["tools"] == first["tools"]
    assert set(second) == {"model", "messages", "tools"}
