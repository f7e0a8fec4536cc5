from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.llm_stub import LlmStub, call, cut, fail, say


def ask(stub: LlmStub, **body: Any) -> bytes:
    request = urllib.request.Request(
        f"{stub.url}/chat/completions",
        json.dumps({"messages": [], **body}).encode(),
        {"Authorization": "Bearer key", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
    return content


def test_it_gives_its_replies_in_turn_and_keeps_what_was_asked() -> None:
    with LlmStub([say("a"), call("tool", x=1)]) as stub:
        first, second = json.loads(ask(stub, seed=7)), json.loads(ask(stub))
    assert first["choices"][0]["message"]["content"] == "a"
    (called,) = second["choices"][0]["message"]["tool_calls"]
    assert json.loads(called["function"]["arguments"]) == {"x": 1}
    assert (stub.requests[0].seed, stub.requests[0].authorization) == (7, "Bearer key")


def test_it_streams() -> None:
    with LlmStub([say("one two  three")]) as stub:
        lines = ask(stub, stream=True).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "one two  three"
    assert chunks[-1]["usage"]["prompt_tokens"] == 10


def test_it_fails_as_it_is_told() -> None:
    with LlmStub([fail(429, retry_after=3)]) as stub, pytest.raises(urllib.error.HTTPError) as told:
        ask(stub)
    assert (told.value.code, told.value.headers["Retry-After"]) == (429, "3")
    told.value.close()


def test_it_cuts_the_connection() -> None:
    with LlmStub([cut()]) as stub, pytest.raises((http.client.HTTPException, OSError)):
        ask(stub)


def test_a_script_may_be_a_function() -> None:
    with LlmStub(lambda request: say(request.body["model"])) as stub:
        assert b'"m-1"' in ask(stub, model="m-1")
