"""Lean: the OpenAI SDK's client with a short way for the one call that agents live by.

The SDK walks each request and each response along its type hints, in Python: for a thousand agents
in a process that takes longer than all else. What it sends and returns stays the same here;
streams go the SDK's own way. ``tests/unit/test_llm_contract.py`` holds what this relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import openai
import orjson
from openai.types.chat import ChatCompletion

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is said to the SDK and not to the server.
_OPTIONS = ("extra_headers", "extra_query", "extra_body", "timeout")


def lean_client(base_url: str, key: str, client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """A client of the SDK that tries nothing twice; whoever made ``client`` closes it."""
    made = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=client)
    completions = made.chat.completions
    usual = completions.create

    async def create(**params: Any) -> Any:
        if params.get("stream") is True or _given(params.get("extra_query")):
            return await usual(**params)
        return await _post(made, client, params)

    completions.create = create  # type: ignore[method-assign]
    return made


async def _post(
    made: openai.AsyncOpenAI, client: httpx2.AsyncClient, params: Mapping[str, Any]
) -> ChatCompletion:
    body = {name: value for name, value in params.items() if _given(value)}
    extra = body.get("extra_body") or {}
    headers = {**made.auth_headers, **_JSON, **(body.get("extra_headers") or {})}
    for name in _OPTIONS:
        body.pop(name, None)
    data = orjson.dumps({**body, **extra}, default=_plain)
    request = client.build_request(
        "POST", f"{str(made.base_url).rstrip('/')}/chat/completions", content=data, headers=headers
    )
    try:
        response = await client.send(request)
    except httpx2.TimeoutException as error:
        raise openai.APITimeoutError(request=request) from error
    except httpx2.HTTPError as error:
        raise openai.APIConnectionError(request=request) from error
    if response.is_error:
        raise made._make_status_error_from_response(response)  # noqa: SLF001 - see the contract test
    return _completion(response)


_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


def _completion(response: httpx2.Response) -> ChatCompletion:
    try:
        return ChatCompletion.model_validate_json(response.content)
    except ValueError:
        pass  # It has a word of its own somewhere, or is no such thing at all.
    try:
        return ChatCompletion.construct(**orjson.loads(response.content))
    except (orjson.JSONDecodeError, TypeError) as error:
        text = response.text[:500]
        raise openai.APIResponseValidationError(response=response, body=text) from error


def _given(value: Any) -> bool:
    return value is not None and not isinstance(value, (openai.NotGiven, openai.Omit))


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    return list(value)
