"""What ``engines/llm/lean.py`` relies on in the OpenAI SDK and in pydantic-ai."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import httpx2
import openai
import orjson
import pytest
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from agentpipe.engines.llm.fast_openai import fast_client

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def _asked(reply: httpx2.Response, *, lean: bool) -> tuple[list[httpx2.Request], Any]:
    """What one request by pydantic-ai sends, and what comes of ``reply``."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return reply

    async def ask() -> Any:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            plain = openai.AsyncOpenAI(
                api_key="k", base_url="http://h/v1", max_retries=0, http_client=http
            )
            client = fast_client("http://h/v1", "k", http) if lean else plain
            model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
            return await model_request(model, [ModelRequest([UserPromptPart("hello")])])

    try:
        return seen, asyncio.run(ask())
    except Exception as error:  # noqa: BLE001 - it is what is compared
        return seen, error


def test_the_short_way_sends_what_the_sdk_sends_and_reads_what_it_reads() -> None:
    (usual,), expected = _asked(httpx2.Response(200, json=ANSWER), lean=False)
    (short,), found = _asked(httpx2.Response(200, json=ANSWER), lean=True)
    assert (short.method, short.url) == (usual.method, usual.url)
    assert short.headers["authorization"] == usual.headers["authorization"] == "Bearer k"
    assert orjson.loads(short.content) == orjson.loads(usual.content)
    assert (found.parts, found.usage) == (expected.parts, expected.usage)


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(429, headers={"Retry-After": "3"}, json={"error": {"message": "slow"}}),
        httpx2.Response(401, json={"error": {"message": "who are you"}}),
        httpx2.Response(500, content=b"<html>"),
    ],
)
def test_it_fails_as_the_sdk_fails(reply: httpx2.Response) -> None:
    _, expected = _asked(reply, lean=False)
    _, found = _asked(reply, lean=True)
    assert type(found) is type(expected)
    assert found.status_code == expected.status_code
    assert found.retry_after == expected.retry_after


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b'{"choices": []}', b"{}"])
def test_a_broken_answer_is_an_error(content: bytes) -> None:
    _, found = _asked(httpx2.Response(200, content=content), lean=True)
    assert isinstance(found, Exception)


def test_a_word_of_the_servers_own_is_no_error() -> None:
    answer = {**ANSWER, "choices": [{**ANSWER["choices"][0], "finish_reason": "eos"}]}  # type: ignore[index]
    _, found = _asked(httpx2.Response(200, json=answer), lean=True)
    _, expected = _asked(httpx2.Response(200, json=answer), lean=False)
    assert getattr(found, "parts", found) == getattr(expected, "parts", expected)


def test_the_private_name_is_there() -> None:
    method = getattr(openai.AsyncOpenAI, "_make_status_error_from_response")  # noqa: B009 - private
    assert list(inspect.signature(method).parameters) == ["self", "response"]
