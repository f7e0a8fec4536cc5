"""Conversations for fine-tuning: only complete ones, in OpenAI's format."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from agentpipe.archive.export.sft import write_sft
from agentpipe.core.result import Result

ASKED = {"role": "user", "content": "2 and 2?"}
CALL = {"id": "c1", "name": "add", "arguments": '{"a": 2}'}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "4"}


def span(index: int, **data: Any) -> dict[str, Any]:
    record = {"timestamp": 1.0, "data": {"type": "llm", **data}}
    return {"id": f"s{index}", "parent_id": "root", "records": [record], "span_index": index}


def agent(index: int, question: Any) -> dict[str, Any]:
    return span(index, type="agent", messages=[question], response="4")


FIRST = span(0, messages=[ASKED], response="", tool_calls=[CALL], tools=[TOOL])
LAST = span(1, messages=[TOLD], response="four", tool_calls=[])


def result(*trace: dict[str, Any], **fields: Any) -> Result:
    known = {"task_id": "v2/p/0", "group_id": "v2/p", "reward": 1, "result": "four"}
    return Result(trace=list(trace), **{**known, **fields})


def lines(*results: Result, min_reward: float | None = None) -> list[dict[str, Any]]:
    file = io.BytesIO()
    written, left_out = write_sft(iter(results), file, min_reward)
    found = [json.loads(line) for line in file.getvalue().splitlines()]
    assert (written, left_out) == (len(found), len(results) - len(found))
    return found


def test_a_line_has_the_conversation_and_what_it_earned() -> None:
    (line,) = lines(result(FIRST, LAST))
    tools = line.pop("tools")
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    assert line == {
        "messages": [
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [called]},
            TOLD,
            {"role": "assistant", "content": "four"},
        ],
        "task_id": "v2/p/0",
        "reward": 1.0,
        "group": "v2/p",
    }
    assert json.loads(tools) == [{"type": "function", "function": TOOL}]


def test_an_agent_without_a_model_has_its_question_and_answer() -> None:
    (line,) = lines(result(agent(0, "2 and 2?"), result={"sum": 4}, reward=None))
    assert line["messages"] == [ASKED, {"role": "assistant", "content": '{"sum":4}'}]
    assert (line["reward"], line["tools"]) == (None, None)


def test_the_question_is_that_of_the_task() -> None:
    (line,) = lines(result(agent(0, "cut"), task={"question": "2 and 2?"}))
    assert line["messages"][0] == ASKED


def test_of_several_conversations_it_is_the_one_that_gave_the_answer() -> None:
    other = span(1, messages=[{"role": "user", "content": "Judge."}], response="fine")
    first = span(0, messages=[ASKED], response="four")
    (line,) = lines(result(first, other))
    assert line["messages"][0] == ASKED
    (line,) = lines(result(first, other, result="reworded"))
    assert line["messages"][0]["content"] == "Judge."


def test_the_content_of_a_message_is_always_text() -> None:
    parts = [{"type": "text", "text": "2 and"}, {"type": "text", "text": "2?"}, {"type": "image"}]
    (line,) = lines(result(span(0, messages=[{"role": "user", "content": parts}], response="four")))
    assert line["messages"][0]["content"] == '2 and\n2?\n{"type":"image"}'


@pytest.mark.parametrize(
    "odd",
    [
        result(FIRST, span(1, messages=[TOLD], response="", error="TimeoutError")),
        result(LAST | {"span_index": 3}),  # Missing spans.
        result(FIRST, LAST, span(2, dropped="too large")),
        result(FIRST, LAST, truncated={"fields": ["trace"]}),
        result(FIRST, LAST, truncated={"fields": ["result"]}),
        result(span(0, messages=[ASKED], response="", error="TimeoutError")),
        result(agent(0, "2 and 2?"), result=None),
        result(),
    ],
)
def test_what_is_not_whole_is_left_out(odd: Result) -> None:
    assert lines(odd) == []


def test_less_than_the_least_reward_is_left_out() -> None:
    rewards = (1, 0.5, 0.4, None)
    results = [result(FIRST, LAST, reward=reward) for reward in rewards]
    assert [line["reward"] for line in lines(*results, min_reward=0.5)] == [1.0, 0.5]
    assert len(lines(*results)) == 4
