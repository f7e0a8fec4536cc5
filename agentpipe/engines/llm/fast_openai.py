"""The OpenAI SDK's client with a fast path for chat completions.

The SDK walks each request and response along its type hints, in Python. With a thousand agents in
a process that takes longer than everything else. Requests and results stay the same; streams use
the SDK's own path. ``tests/unit/test_llm_contract.py`` checks what this relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import openai
import orjson
from openai.types.chat import ChatCompletion

if TYPE_CHECKING:
    from collections.abc import Mapping

# For the SDK, not for the server.
_OPTIONS = ("extra_headers", "extra_query", "extra_body", "timeout")


def fast_client(base_url: str, key: str, client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """A client of the SDK without retries; the caller closes ``client``."""
    sdk = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=client)
    completions = sdk.chat.completions
    usual = completions.create

    async def create(**params: Any) -> Any:
        if params.get("stream") is True or _given(params.get("extra_query")):
            return await usual(**params)
        return await _post(sdk, client, params)

    completions.create = create  # type: ignore[method-assign]
    return sdk


async def _post(
    sdk: openai.AsyncOpenAI, client: httpx2.AsyncClient, params: Mapping[str, Any]
) -> ChatCompletion:
    body = {name: value for name, value in params.items() if _given(value)}
    extra = body.get("extra_body") or {}
    headers = {**sdk.auth_headers, **_JSON, **(body.get("extra_headers") or {})}
    for name in _OPTIONS:
        body.pop(name, None)
    data = orjson.dumps({**body, **extra}, default=_plain)
    request = client.build_request(
        "POST", f"{str(sdk.base_url).rstrip('/')}/chat/completions", content=data, headers=headers
    )
    try:
        response = await client.send(request)
    except httpx2.TimeoutException as error:
        raise openai.APITimeoutError(request=request) from error
    except httpx2.HTTPError as error:
        raise openai.APIConnectionError(request=request) from error
    if response.is_error:
        raise sdk._make_status_error_from_response(response)  # noqa: SLF001 - see the contract test
    return _completion(response)


_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


def _completion(response: httpx2.Response) -> ChatCompletion:
    try:
        return ChatCompletion.model_validate_json(response.content)
    except ValueError:
        pass  # It has values of its own somewhere, or is something else.
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
