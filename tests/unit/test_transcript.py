"""Conversations are rebuilt from the spans of a run."""

from __future__ import annotations

from typing import Any

import pytest

from agentpipe.core.trace import Tracer
from agentpipe.core.transcript import transcripts
from agentpipe.engines.models.conversation import (
    MAX_TOOLS_BYTES,
    Conversation,
    Question,
    ToolDefinition,
)

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "2 and 2?"}
CALL = {"id": "c1", "name": "add", "arguments": '{"a": 2}'}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "4"}
CALLED = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    ],
}
ANSWERED = {"role": "assistant", "content": "four"}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}


def _span(index: int, parent: str = "root", **data: Any) -> dict[str, Any]:
    record = {"timestamp": 1.0, "data": {"type": "llm", **data}}
    return {"id": f"s{index}", "parent_id": parent, "records": [record], "span_index": index}


def test_messages_since_the_last_request_become_one_conversation() -> None:
    first = _span(
        0, messages=[SYSTEM, ASKED], response="Let me see.", tool_calls=[CALL], tools=[TOOL]
    )
    second = _span(1, messages=[TOLD], response="four", tool_calls=[])
    (whole,) = transcripts([first, second])
    assert list(whole.messages) == [SYSTEM, ASKED, CALLED, TOLD, ANSWERED]
    assert list(whole.tools) == [{"type": "function", "function": TOOL}]
    assert whole.complete


def test_whole_histories_become_the_same_conversation() -> None:
    first = _span(0, messages=[SYSTEM, ASKED], response=[CALL])
    theirs = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    second = _span(1, messages=[SYSTEM, ASKED, theirs, TOLD], response="four")
    (whole,) = transcripts([first, second])
    assert list(whole.messages) == [SYSTEM, ASKED, theirs, TOLD, ANSWERED]


def test_a_failed_request_is_asked_again_with_the_same_messages() -> None:
    failed = _span(0, messages=[ASKED], response="", error="TimeoutError: 5 s")
    again = _span(1, messages=[], response="four", tool_calls=[], error="")
    (whole,) = transcripts([failed, again])
    assert list(whole.messages) == [ASKED, ANSWERED]


def test_agents_under_spans_of_their_own_have_conversations_of_their_own() -> None:
    trace = [
        _span(0, "a", messages=[ASKED], response="", tool_calls=[CALL]),
        _span(1, "b", messages=[ASKED], response="", tool_calls=[CALL]),
        _span(2, "a", messages=[TOLD], response="four"),
        _span(3, "b", messages=[TOLD], response="five"),
    ]
    assert [each.messages[-1]["content"] for each in transcripts(trace)] == ["four", "five"]


def test_a_history_within_one_message_begins_anew_each_time() -> None:
    more = {"role": "user", "content": "2 and 2? Thought: add them."}
    trace = [_span(0, messages=[ASKED], response="a"), _span(1, messages=[more], response="b")]
    assert [each.messages[0] for each in transcripts(trace)] == [ASKED, more]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        {},
        {"records": None},
        {"records": [None, {"data": 3}]},
        _span(0, messages=None, response=None),
        _span(0, messages=[1, "a", None], response=7, tool_calls="x"),
        _span(0, messages=[{"role": 3}], response={"choices": [{"message": 1}]}),
        _span(0, messages=[{}], response=[{"function": None}], tools=[1, {"function": 2}]),
    ],
)
def test_odd_spans_do_no_harm(odd: Any) -> None:
    good = _span(1, "other", messages=[ASKED], response="four")
    assert list(transcripts([odd, good])[-1].messages) == [ASKED, ANSWERED]


def test_what_was_left_out_makes_a_conversation_incomplete() -> None:
    whole = _span(0, messages=[ASKED], response="four")
    assert not transcripts([whole, _span(2)])[0].complete
    assert not transcripts([whole, _span(1, dropped="too large")])[0].complete


def test_tools_are_recorded_once_and_when_they_change() -> None:
    first = ToolDefinition("add", "Adds.", {"type": "object"})
    conversation = Conversation({}, [first], turns=[Question("?")])
    assert conversation.unrecorded_tools() == [TOOL]
    conversation.tools = [ToolDefinition("add", "Adds.", {"type": "object"})]
    assert conversation.unrecorded_tools() == []
    conversation.tools = []
    assert conversation.unrecorded_tools() == []
    conversation.tools = [ToolDefinition("new", "", {})]
    assert [tool["name"] for tool in conversation.unrecorded_tools()] == ["new"]


@pytest.mark.parametrize("parameters", [{"a": "x" * MAX_TOOLS_BYTES}, {"a": 2**70}])
def test_tools_that_no_record_holds_cost_no_messages(parameters: dict[str, Any]) -> None:
    conversation = Conversation({}, [ToolDefinition("add", "", parameters)])
    tools = conversation.unrecorded_tools()
    assert tools == [{"name": "add"}]
    tracer = Tracer()
    tracer.take(_span(0, messages=[ASKED], tools=tools))
    assert transcripts(tracer.spans)[0].messages == (ASKED,)
