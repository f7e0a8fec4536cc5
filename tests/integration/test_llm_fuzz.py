"""Damaged answers of models and MCP servers: each run ends with a correct outcome.

This module decides a second time what can be ``ok``, by readers that share no engine code.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.core.outside import valid_text
from agentpipe.core.result import OUTCOMES
from tests.integration.llm_bench import MARK, ODD
from tests.llm_stub import LlmStub, Reply, call, say
from tests.mcp_http import McpStub, Sent
from tests.mutations import mutated
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project
    from tests.llm_stub import Request

pytestmark = pytest.mark.long
ANSWER = "the sum is 42, as Ada said"
FAILED = {"error", "abort", "network_error", "insufficient_system_resource"}
NOT_FINAL = {"pause_turn", "model_context_window_exceeded"}
NUMBER, UNHARMED = 500, 20
EVENT = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def openai_whole() -> bytes:
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
    completion = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**completion, "choices": [choice], "usage": usage}).encode()


def openai_stream() -> bytes:
    deltas: list[Any] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": f"{word} "} for word in ANSWER.split()]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [json.dumps({**EVENT, "choices": [choice]}) for choice in choices]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


def anthropic_whole() -> bytes:
    content = [{"type": "text", "text": ANSWER}]
    usage = {"input_tokens": 9, "output_tokens": 7}
    message = {"id": "m-1", "type": "message", "role": "assistant", "model": "m"}
    end = {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    return json.dumps({**message, "content": content, **end}).encode()


def anthropic_stream() -> bytes:
    message = {"id": "m-1", "type": "message", "role": "assistant", "content": [], "model": "m"}
    parts = [{"type": "text_delta", "text": f"{word} "} for word in ANSWER.split()]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 9}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": part} for part in parts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    texts = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return "".join(texts).encode()


# Independent readers.


def parsed(data: bytes) -> Any:
    return json.loads(data.decode(errors="replace"))


def data_of(stream: bytes) -> Iterator[bytes]:
    """The data of each event, as the server-sent events specification says."""
    collected: list[bytes] = []
    for line in [*(each.removesuffix(b"\r") for each in stream.split(b"\n")), b""]:
        if line.startswith(b"data:"):
            collected.append(line[5:].removeprefix(b" "))
        elif not line and collected:
            yield b"\n".join(collected)
            collected = []


def said_by_openai(data: bytes) -> str:
    completion = parsed(data)
    choice = completion["choices"][0]
    assert not completion.get("error")
    assert not choice.get("error")
    assert is_final(choice.get("finish_reason"))
    return as_text(choice["message"].get("content")) or choice["message"]["refusal"]


def is_final(reason: Any) -> bool:
    assert reason is None or isinstance(reason, str)
    return (reason or "").lower() not in {*FAILED, *NOT_FINAL}


def as_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    assert content is None or isinstance(content, str)
    return content or ""


def said_by_openai_stream(data: bytes) -> str:
    said, reason = "", None
    for event in data_of(data):
        if event == b"[DONE]":
            break
        chunk = parsed(event)
        assert not chunk.get("error")
        for choice in (chunk.get("choices") or [])[:1]:
            assert not choice.get("error")
            delta = choice.get("delta") or {}
            said += as_text(delta.get("content")) or as_text(delta.get("refusal"))
            reason = choice.get("finish_reason") or reason
    assert reason is not None
    assert is_final(reason)
    return said


def said_by_anthropic(data: bytes) -> str:
    message = parsed(data)
    assert not message.get("error")
    assert is_final(message.get("stop_reason"))
    return "".join(block["text"] for block in message["content"] if block.get("type") == "text")


def said_by_anthropic_stream(data: bytes) -> str:
    blocks: dict[str, str] = {}
    reason = None
    for event in map(parsed, data_of(data)):
        assert not event.get("error")
        if event.get("type") == "content_block_start":
            blocks[str(event.get("index"))] = event["content_block"].get("text") or ""
        elif event.get("type") == "content_block_delta":
            blocks[str(event.get("index"))] += event["delta"].get("text") or ""
        elif event.get("type") == "message_delta":
            reason = event["delta"].get("stop_reason") or reason
    assert reason is not None
    assert is_final(reason)
    return "".join(blocks.values())


MODELS = {
    "openai": (openai_whole, said_by_openai, "openai:m", False),
    "openai stream": (openai_stream, said_by_openai_stream, "openai:m", True),
    "anthropic": (anthropic_whole, said_by_anthropic, "anthropic:m", False),
    "anthropic stream": (anthropic_stream, said_by_anthropic_stream, "anthropic:m", True),
}


def work(project: Project, config: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Run ``NUMBER`` tasks; return the results by the number in their question."""
    limits = {"max_retries": 0, "breaker": 0, "time_limit": 30, "max_queue_size": NUMBER}
    env = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    project.collection("llm", "./llm.yaml", number=16, context=[{"env": env}], **limits)
    spec = {"name": "llm", "type": "llm", "config": {"request_timeout_s": 20, **config}}
    project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.send(*map(str, range(NUMBER)), to="llm")
    fleet = project.work("--burst", "--processes", "1")
    assert fleet.end(timeout_s=240) == 0
    assert "replaced" not in fleet.log
    assert "Traceback" not in fleet.log
    results = project.by_id()
    assert len(results) == NUMBER
    assert {result["outcome"] for result in results.values()} <= set(OUTCOMES)
    return {int(task_id.partition("-")[2]): result for task_id, result in results.items()}


@pytest.mark.parametrize(("valid", "said", "model", "stream"), MODELS.values(), ids=MODELS)
def test_only_a_complete_answer_of_a_model_is_ok(
    project: Project, valid: Any, said: Any, model: str, *, stream: bool
) -> None:
    bodies = [valid() if n < UNHARMED else mutated(valid(), n) for n in range(NUMBER)]

    def reply(request: Request) -> Reply:
        number = int(request.question)
        return Reply(raw=bodies[number], kind="text/event-stream" if stream else "application/json")

    with LlmStub(reply) as stub:
        results = work(project, {"model": model, "base_url": stub.url, "stream": stream})
    good = {number for number, result in results.items() if result["outcome"] == "ok"}
    assert good >= set(range(UNHARMED))
    assert len(good) < NUMBER
    for number in good:
        expected = valid_text(said(bodies[number]))
        assert results[number]["result"] == expected, bodies[number]


def test_any_answer_of_a_server_ends_as_text_or_as_a_failure(project: Project) -> None:
    def reply(request: Request) -> Reply:
        asked = request.body["messages"][-1]["role"] == "tool"
        return say("done") if asked else call("odd__damaged", text=request.question)

    server = {"name": "odd", "command": sys.executable, "args": [ODD, MARK]}
    config = {"model": "openai:m", "servers": [server], "tool_limit_s": 1}
    with LlmStub(reply) as stub:
        results = work(project, {**config, "base_url": stub.url})
    outcomes = [result["outcome"] for result in results.values()]
    assert {*outcomes} <= {"ok", "infra_error"}
    assert outcomes.count("ok") > NUMBER / 10
    wait_until(lambda: not processes_with(MARK), 10, "no server is left")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_any_response_of_a_server_ends_as_text_or_as_a_failure(project: Project, kind: str) -> None:
    def answer(message: dict[str, Any]) -> Sent | None:
        if message["method"] != "tools/call":
            return None
        text = message["params"]["arguments"]["text"]
        result = {"content": [{"type": "text", "text": f"heard {text}"}], "isError": False}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        whole = b"event: message\ndata: " + body + b"\n\n" if "event" in kind else body
        return Sent(200, whole if int(text) < UNHARMED else mutated(whole, int(text)), kind)

    def reply(request: Request) -> Reply:
        asked = request.body["messages"][-1]["role"] == "tool"
        return say("done") if asked else call("web__echo", text=request.question)

    with McpStub(answer) as server, LlmStub(reply) as model:
        servers = [{"name": "web", "url": server.url}]
        config = {"model": "openai:m", "base_url": model.url, "servers": servers}
        results = work(project, {**config, "tool_limit_s": 20})
    outcomes = {number: result["outcome"] for number, result in results.items()}
    assert {*outcomes.values()} == {"ok", "infra_error"}
    unharmed = [results[number] for number in range(UNHARMED)]
    assert [each["error"] for each in unharmed if each["outcome"] != "ok"] == []
    errors = [result["error"]["message"] for result in results.values() if result["error"]]
    assert not [error for error in errors if "tool_limit_s" in error]
