"""A Result as spans: ids, names, attributes, and what only ``--content`` sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError
from agentpipe.tracing.sender import endpoint_of, shown
from agentpipe.tracing.spans import TraceMaker


def span(name: str, parent: str, data: dict[str, Any]) -> dict[str, Any]:
    record = {"timestamp": 5.0, "data": data}
    times = {"timestamp": 5.0, "running_time": 0.5}
    return {"id": name, "trace_id": "t", "parent_id": parent, "records": [record], **times}


RESULT = Result(
    result="SECRET ANSWER",
    task={"question": "SECRET QUESTION"},
    task_id="v1/a",
    collection="crew",
    agent="crew_0",
    outcome="ok",
    reward=1.0,
    usage={"input_tokens": 7, "output_tokens": 3, "cached_tokens": 2, "usd": 0.5},
    submitted_at="2026-11-28T10:00:00Z",
    started_at="2026-11-28T10:00:01Z",
    finished_at="2026-11-28T10:00:03Z",
    evaluation_results=[
        {"config": {"func": "raw"}, "passed": True, "reason": "SECRET REASON", "score": 0.75}
    ],
    trace=[
        span(
            "call",
            "root",
            {
                "type": "llm",
                "class": "openai",
                "config": {"model_name": "gpt"},
                "messages": [{"role": "user", "content": "SECRET QUESTION"}],
                "response": "SECRET ANSWER",
                "finish_reason": "stop",
                "response_id": "r1",
                "usage": {"input_tokens": 7, "output_tokens": 3, "cached_tokens": 2},
            },
        ),
        span(
            "tool",
            "call",
            {
                "type": "tool",
                "server": "time",
                "tool_name": "now",
                "arguments": {"zone": "SECRET ZONE"},
                "response": "SECRET TIME",
                "error": "ToolError: SECRET MESSAGE",
            },
        ),
        span("root", "root", {"type": "agent"}),
    ],
)


def decoded(result: Result, *, content: bool = False) -> list[dict[str, Any]]:
    """The spans as a collector receives them."""
    request = encode_spans(list(TraceMaker(content=content).spans_of(result)))
    (scope,) = request.resource_spans[0].scope_spans
    return [
        {
            "name": it.name,
            "ids": (it.trace_id, it.span_id),
            "parent": it.parent_span_id,
            "failed": it.status.code == 2,
            "times": (it.start_time_unix_nano, it.end_time_unix_nano),
            "events": [(each.name, _values(each.attributes)) for each in it.events],
            **_values(it.attributes),
        }
        for it in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {it.key: _value(it.value) for it in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(it) for it in value.array_value.values]
    return getattr(value, kind)


def test_names_and_attributes_are_the_conventions() -> None:
    run, chat, tool = decoded(RESULT)
    assert (run["name"], chat["name"], tool["name"]) == (
        "invoke_agent crew",
        "chat gpt",
        "execute_tool now",
    )
    assert run["gen_ai.operation.name"] == "invoke_agent"
    assert (run["gen_ai.agent.name"], run["agentpipe.task_id"]) == ("crew", "v1/a")
    assert run["gen_ai.usage.input_tokens"] == 7
    assert chat["gen_ai.provider.name"] == "openai"
    assert chat["gen_ai.request.model"] == "gpt"
    assert chat["gen_ai.usage.output_tokens"] == 3
    assert chat["gen_ai.usage.cache_read.input_tokens"] == 2
    assert chat["gen_ai.response.finish_reasons"] == ["stop"]
    assert tool["gen_ai.tool.name"] == "now"
    assert tool["mcp.method.name"] == "tools/call"
    assert (tool["failed"], tool["error.type"]) == (True, "ToolError")
    ((event, values),) = run["events"]
    assert event == "gen_ai.evaluation.result"
    assert values["gen_ai.evaluation.name"] == "raw"
    assert values["gen_ai.evaluation.score.value"] == 0.75
    assert values["gen_ai.evaluation.score.label"] == "pass"


def test_an_evaluator_that_broke_gives_no_score() -> None:
    broken = {"config": {"func": "raw"}, "passed": False, "error": "SECRET REASON"}
    wrong = {"config": {"func": "raw"}, "passed": False, "reason": "SECRET REASON", "error": ""}
    run = decoded(replace(RESULT, outcome="eval_error", evaluation_results=[broken, wrong]))[0]
    (_, of_broken), (_, of_wrong) = run["events"]
    assert of_broken == {"gen_ai.evaluation.name": "raw", "error.type": "EvaluationError"}
    assert of_wrong["gen_ai.evaluation.score.value"] == 0.0
    assert of_wrong["gen_ai.evaluation.score.label"] == "fail"


def test_a_task_that_never_ran_took_no_time() -> None:
    (run,) = decoded(replace(RESULT, outcome="cancelled", started_at=None, trace=[]))
    assert run["times"] == (1_795_860_003_000_000_000,) * 2


def test_spans_are_a_tree_with_their_times() -> None:
    run, chat, tool = decoded(RESULT)
    assert run["parent"] == b""
    assert chat["parent"] == run["ids"][1]
    assert tool["parent"] == chat["ids"][1]
    assert run["times"][1] - run["times"][0] == 2_000_000_000
    assert chat["times"] == (5_000_000_000, 5_500_000_000)


def test_the_same_submission_has_the_same_ids_and_another_one_others() -> None:
    first = [it["ids"] for it in decoded(RESULT)]
    assert [it["ids"] for it in decoded(Result.decode(_encoded()))] == first
    later = replace(RESULT, submitted_at="2026-11-29T10:00:00Z")
    assert {ids for it in decoded(later) for ids in it["ids"]}.isdisjoint(
        ids for each in first for ids in each
    )


def _encoded() -> bytes:
    return RESULT.encode(Redactor(()))


def test_what_was_asked_and_answered_is_sent_only_when_asked_for() -> None:
    assert "SECRET" not in str(decoded(RESULT))
    run, chat, tool = decoded(RESULT, content=True)
    assert "SECRET QUESTION" in run["gen_ai.input.messages"]
    assert "SECRET ANSWER" in run["gen_ai.output.messages"]
    assert "SECRET QUESTION" in chat["gen_ai.input.messages"]
    assert "SECRET ZONE" in tool["gen_ai.tool.call.arguments"]
    assert "SECRET REASON" in str(run["events"])


@pytest.mark.parametrize("outcome", ["agent_error", "infra_error", "crashed"])
def test_a_failure_is_an_error_by_its_type(outcome: str) -> None:
    error = {"type": "ValueError", "message": "SECRET"}
    (run,) = decoded(replace(RESULT, outcome=outcome, error=error, trace=[]))
    assert (run["failed"], run["error.type"]) == (True, "ValueError")
    assert "SECRET" not in str(run)


@pytest.mark.parametrize(
    "error", ["SECRET without a type", "SECRET asked for: no", ": SECRET", "\u00e9"]
)
def test_an_error_without_a_type_says_nothing_of_its_message(error: str) -> None:
    """Foreign traces can have errors of any form."""
    data = {"type": "tool", "tool_name": "now", "error": error}
    failed = replace(
        RESULT, outcome="agent_error", error={"type": error}, trace=[span("a", "b", data)]
    )
    run, tool = decoded(failed)
    assert (run["error.type"], tool["error.type"]) == ("_OTHER", "_OTHER")
    assert "SECRET" not in str(run) + str(tool)


ODD: list[Any] = [
    [None, 3, "text", {}],
    [{"id": None, "records": 7, "timestamp": "soon", "running_time": -1}],
    [{"id": "x", "parent_id": "y", "timestamp": float("inf"), "running_time": 1e300}],
    [span("a", "a", {"type": ["x"]}), span("b", "a", {"type": "llm", "config": 3, "usage": []})],
    [span("a", "b", {"type": "tool", "tool_name": 3, "server": {}, "error": 7})],
    [span("a", "b", {"type": "\ud800"})],
]


@pytest.mark.parametrize("trace", ODD)
def test_odd_traces_of_others_are_spans_all_the_same(trace: list[Any]) -> None:
    odd = replace(RESULT, trace=trace, evaluation_results=[3], usage={"input_tokens": 1e300})  # type: ignore[list-item]
    assert decoded(odd, content=True)[0]["name"] == "invoke_agent crew"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("https://h/base/", "https://h/base/v1/traces"),
        ("http://h/v1/traces", "http://h/v1/traces"),
        ("http://h/?key=1", "http://h/v1/traces?key=1"),
    ],
)
def test_traces_go_to_the_path_of_traces(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize("url", ["h:4318", "file:///x", "", "kafka://h", "http://", "http://[x"])
def test_what_is_no_collector_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not a collector's URL"):
        endpoint_of(url)


def test_a_url_is_shown_without_credentials() -> None:
    assert shown("http://me:hidden@h:4318/p?token=hidden#hidden") == "http://h:4318/p"
