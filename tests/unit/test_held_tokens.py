"""A conversation is recognized by its messages, in whatever form a client returns the answers."""

from __future__ import annotations

from typing import Any

from agentpipe.engines.models.held_tokens import KEPT, HeldTokens

USER = {"role": "user", "content": "?"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}
ANSWER = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm"}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "3"}


def held_after(*messages: Any, **more: Any) -> Any:
    tokens = HeldTokens()
    tokens.keep({"messages": [USER]}, ANSWER, [1, 2])
    found = tokens.longest({"messages": [*messages], **more})
    return found and (found.ids, found.messages)


def test_a_continued_conversation_is_found() -> None:
    assert held_after(USER, ANSWER, RESULT) == ([1, 2], 2)


def test_a_client_may_write_an_answer_in_its_own_way() -> None:
    function = {"arguments": '{"b":2,"a":1}', "name": "f"}
    own = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": function}]}
    assert held_after(USER, own, RESULT) == ([1, 2], 2)


def test_what_is_not_continued_is_not_found() -> None:
    other = {**ANSWER, "content": "else"}
    assert held_after(USER, other, RESULT) is None
    assert held_after(USER, ANSWER) is None
    assert held_after(RESULT, USER, ANSWER, RESULT) is None
    assert held_after(USER, ANSWER, RESULT, tools=[{"type": "function"}]) is None
    assert held_after("no object", 7) is None


def test_the_longest_is_found_and_the_oldest_forgotten() -> None:
    tokens, messages = HeldTokens(), [USER]
    for turn in range(KEPT + 2):
        answer = {"role": "assistant", "content": str(turn)}
        tokens.keep({"messages": messages}, answer, [turn])
        messages = [*messages, answer, USER]
    found = tokens.longest({"messages": messages})
    assert found is not None
    assert (found.ids, found.messages) == ([KEPT + 1], len(messages) - 1)
    assert tokens.longest({"messages": messages[:3]}) is None
