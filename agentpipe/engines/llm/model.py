"""LlmModel: one model at one provider, asked by way of pydantic-ai.

What a provider says in its own words (rate limits, refusals, broken answers) becomes one error
here, so that a failure of the service is never taken for an answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_ai import exceptions
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from agentpipe.core import trace
from agentpipe.core.backoff import delay_s
from agentpipe.core.failures import hold_s, is_infra
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model

    from agentpipe.engines.llm.access import Access
    from agentpipe.engines.llm.config import LlmSpec
    from agentpipe.engines.llm.tools import Tool

# A run that has come a way is worth waiting for; one that has not is put back.
TRIES_ON_THE_WAY = 4
PAUSE_S, MAX_PAUSE_S = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a model is asked with; the two lists grow with each turn.

    Attributes:
        transcript: The same as ``messages``, as the trace tells it.
    """

    settings: Mapping[str, Any]
    tools: Sequence[ToolDefinition]
    messages: list[ModelMessage] = field(default_factory=list)
    transcript: list[dict[str, Any]] = field(default_factory=list)


class LlmModel:
    """Asks, records each request in the trace, and counts what it used."""

    def __init__(self, spec: LlmSpec, access: Access, client: httpx2.AsyncClient) -> None:
        self._spec = spec
        self._priced = True
        self._model = _open(spec, access, client)

    async def ask(self, conversation: Conversation, *, patient: bool) -> ModelResponse:
        """The model's next response; a failing service is asked again where ``patient``.

        Raises:
            AgentFailed: It failed, with ``infra`` where that is the service's doing.
        """
        tries = TRIES_ON_THE_WAY if patient else 1
        for done in range(1, tries + 1):
            try:
                return await self._recorded(conversation)
            except AgentFailed as failure:
                pause_s = max(failure.retry_after_s or 0.0, delay_s(done, PAUSE_S, MAX_PAUSE_S))
                if not failure.infra or done == tries or pause_s > MAX_PAUSE_S:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError

    async def _recorded(self, conversation: Conversation) -> ModelResponse:
        config = {"model_name": self._spec.model, **conversation.settings}
        record = {"type": "llm", "class": self._spec.provider.name, "config": config}
        with trace.step({**record, "messages": list(conversation.transcript)}) as told:
            response = await self._request(conversation)
            told["response"] = response.text or [
                {"name": call.tool_name, "arguments": call.args} for call in response.tool_calls
            ]
            trace.record_usage(self._usage(response))
        return response

    async def _request(self, conversation: Conversation) -> ModelResponse:
        messages = conversation.messages
        settings = _settings(conversation.settings, self._spec.provider.protocol)
        parameters = ModelRequestParameters(function_tools=list(conversation.tools))
        asked: dict[str, Any] = {
            "model_settings": settings,
            "model_request_parameters": parameters,
        }
        try:
            async with asyncio.timeout(self._spec.request_timeout_s):
                if not self._spec.stream:
                    return await model_request(self._model, messages, **asked)
                async with model_request_stream(self._model, messages, **asked) as parts:
                    async for _ in parts:
                        pass
                    return parts.get()
        except Exception as error:
            raise _failure(error) from error

    def _usage(self, response: ModelResponse) -> dict[str, Any]:
        usage = response.usage
        counts = {
            "requests": 1,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_tokens": usage.cache_read_tokens,
        }
        try:
            # Looking in vain costs more than the rest of a request.
            return {**counts, "usd": float(response.cost().total_price)} if self._priced else counts
        except (LookupError, ValueError, AssertionError):
            self._priced = False
            return counts


def definition(tool: Tool) -> ToolDefinition:
    """A tool as pydantic-ai has it."""
    return ToolDefinition(
        name=tool.name, parameters_json_schema=tool.parameters, description=tool.description
    )


def _settings(settings: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Ours by pydantic-ai's names."""
    named = dict(settings)
    effort = named.pop("reasoning_effort", None)
    if effort is not None and protocol == "openai":
        named["openai_reasoning_effort"] = effort
    return named


def _open(spec: LlmSpec, access: Access, client: httpx2.AsyncClient) -> Model:
    """The SDKs' own retries are off: what fails is for us to judge."""
    if spec.provider.protocol == "anthropic":
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        anthropic = AsyncAnthropic(
            api_key=access.key, base_url=access.base_url, max_retries=0, http_client=client
        )
        return AnthropicModel(spec.model, provider=AnthropicProvider(anthropic_client=anthropic))
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    from agentpipe.engines.llm.fast_openai import lean_client

    openai = lean_client(access.base_url, access.key, client)
    return OpenAIChatModel(spec.model, provider=OpenAIProvider(openai_client=openai))


def _failure(error: Exception) -> AgentFailed:
    """What it means for the run; an answer that cannot be read is the service's fault."""
    if isinstance(error, TimeoutError):
        return AgentFailed("the model did not answer in time", kind="ModelTimeout", infra=True)
    malformed = isinstance(error, exceptions.UnexpectedModelBehavior) and not isinstance(
        error, exceptions.ContentFilterError
    )
    return AgentFailed(
        str(error),
        kind=next(kind.__name__ for kind in type(error).__mro__ if kind.__name__[0] != "_"),
        infra=malformed or is_infra(error),
        retry_after_s=hold_s(error),
    )
