"""Each provider's rules, as its requests show them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentpipe.engines.models.conversation import Conversation, Question, ToolDefinition
from agentpipe.engines.models.protocols import PROTOCOLS
from agentpipe.engines.models.providers import PROVIDERS

SETTINGS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 50,
    "seed": 7,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "stop_sequences": ["END"],
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "extra_body": {"top_k": 3},
}
FREE = {"type": "object", "additionalProperties": True}
SCHEMAS: list[dict[str, Any]] = [
    FREE,
    {"type": "object", "properties": {"filter": {"type": "object"}, "any": {}}},
    {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": FREE}},
    {"type": "object", "properties": {"x": {"anyOf": [{"type": "null"}, FREE]}}, "required": []},
    {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T"},
]


def body(name: str, *, stream: bool = False, schema: Any = None) -> dict[str, Any]:
    provider = PROVIDERS[name]
    tools = [ToolDefinition("a__b", "does it", schema or {"type": "object", "properties": {}})]
    conversation = Conversation(provider.sent(SETTINGS), tools, "Be brief.", [Question("?")])
    return dict(PROTOCOLS[provider.protocol].body(conversation, "m", provider, stream=stream))


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("openai", {"max_completion_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
        ("groq", {"max_completion_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
        ("grok", {"max_completion_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
        ("mistral", {"max_tokens": 50, "random_seed": 7, "frequency_penalty": 0.1}),
        ("gemini", {"max_tokens": 50}),
        ("deepseek", {"max_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
        ("ollama", {"max_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
        ("openrouter", {"max_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
        ("local", {"max_tokens": 50, "seed": 7, "frequency_penalty": 0.1}),
    ],
)
def test_settings_have_the_providers_names_and_those_that_it_lacks_are_not_sent(
    name: str, own: dict[str, Any]
) -> None:
    if "frequency_penalty" in own:
        own["presence_penalty"] = 0.2
    common = {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "top_k": 3,
    }
    sent = body(name)
    assert {key: sent[key] for key in sent if key not in {"model", "messages", "tools"}} == {
        **common,
        **own,
    }


def test_anthropic_gets_what_its_protocol_has() -> None:
    sent = body("anthropic")
    assert {key: sent[key] for key in sent if key not in {"model", "messages", "tools"}} == {
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 50,
        "stop_sequences": ["END"],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "top_k": 3,
    }


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_streams_tokens_are_asked_for_where_they_are_not_counted_unasked(name: str) -> None:
    sent = body(name, stream=True)
    assert sent["stream"] is True
    unasked = name == "mistral" or PROVIDERS[name].protocol == "anthropic"
    assert ("stream_options" in sent) is not unasked
    assert not {"stream", "stream_options"} & body(name).keys()


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_reaches_the_model_as_its_server_gave_it(
    name: str, schema: dict[str, Any]
) -> None:
    (tool,) = body(name, schema=schema)["tools"]
    sent = tool["input_schema"] if "input_schema" in tool else tool["function"]["parameters"]
    added: dict[str, Any] = {"properties": {}} if PROVIDERS[name].needs_properties else {}
    assert sent == {"type": "object", **added, **schema}
    assert "strict" not in json.dumps(tool)


def test_openais_own_service_gets_the_properties_that_it_demands_and_no_other_server() -> None:
    openai = PROVIDERS["openai"]
    assert openai.at("https://api.openai.com/v1").needs_properties
    assert not openai.at("http://127.0.0.1:8000/v1").needs_properties
    assert [p.name for p in PROVIDERS.values() if p.needs_properties] == ["openai"]


def openai_answer(calls: list[Any]) -> dict[str, Any]:
    given = [
        {"id": id_, "type": "function", "function": {"name": "a", "arguments": text}}
        for id_, text in calls
    ]
    message = {"role": "assistant", "content": None, "tool_calls": given}
    return {"choices": [{"message": message, "finish_reason": "tool_calls"}]}


def anthropic_answer(ids: list[Any]) -> dict[str, Any]:
    blocks = [{"type": "tool_use", "id": id_, "name": "a", "input": {}} for id_ in ids]
    return {"content": blocks, "stop_reason": "tool_use"}


@pytest.mark.parametrize("given", [[None, None], ["", "x"], ["x", "x", "y", "x"], [1, {}, "x"]])
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_each_call_of_a_response_has_an_id_of_its_own(protocol: str, given: list[Any]) -> None:
    if protocol == "openai":
        response = PROTOCOLS[protocol].read(openai_answer([(id_, "{}") for id_ in given]))
        back = [call["id"] for call in response.turn["tool_calls"]]
    else:
        response = PROTOCOLS[protocol].read(anthropic_answer(given))
        back = [block["id"] for block in response.turn["content"]]
    ids = [call.id for call in response.calls]
    assert back == ids
    assert len({*ids}) == len(given)
    new = [id_ for id_ in ids if id_ not in given]
    # Mistral requires this format, and the others accept it.
    assert all(re.fullmatch(r"[A-Za-z0-9]{9}", id_) for id_ in new)
    assert [id_ for id_ in ids if id_ in given] == list(dict.fromkeys(filter(known, given)))


def known(id_: Any) -> bool:
    return isinstance(id_, str) and id_ != ""


@pytest.mark.parametrize(
    ("written", "back"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        ("", "{}"),
        (None, "{}"),
        ("null", "{}"),
        ('["a"]', "{}"),
        ('"a"', "{}"),
        ('{"a": "cut of', "{}"),
        ({"a": 1}, '{"a":1}'),
    ],
)
def test_arguments_that_are_no_object_do_not_go_back(written: Any, back: str) -> None:
    """Servers such as vLLM parse the arguments in the history, and refuse all but objects."""
    response = PROTOCOLS["openai"].read(openai_answer([("x", written)]))
    (call,) = response.turn["tool_calls"]
    assert call["function"]["arguments"] == back
