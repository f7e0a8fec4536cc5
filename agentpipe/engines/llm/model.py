"""LlmModel: one model at one provider, called through pydantic-ai.

Every provider's errors (rate limits, refusals, malformed responses) become one error here, so
that a failure of the service is never taken for an answer.
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
from agentpipe.core.failures import hold_s, is_infra, is_permanent
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model

    from agentpipe.engines.llm.access import Endpoint
    from agentpipe.engines.llm.config import LlmConfig
    from agentpipe.engines.llm.tools import Tool

# A run that has made progress is worth waiting for; a new one goes back to the queue.
TRIES = 4
PAUSE_S, MAX_PAUSE_S = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request's parts; the two lists grow with each turn.

    Attributes:
        transcript: ``messages`` in the trace's form.
    """

    settings: Mapping[str, Any]
    tools: Sequence[ToolDefinition]
    messages: list[ModelMessage] = field(default_factory=list)
    transcript: list[dict[str, Any]] = field(default_factory=list)


class LlmModel:
    """Sends requests, records them in the trace, and counts tokens and cost."""

    def __init__(self, config: LlmConfig, endpoint: Endpoint, client: httpx2.AsyncClient) -> None:
        self._config = config
        self._priced = True
        self._model = _open(config, endpoint, client)

    async def ask(self, conversation: Conversation, *, retry: bool) -> ModelResponse:
        """The model's next response; with ``retry`` a failing service is tried again, with pauses.

        Raises:
            AgentFailed: It failed, with ``infra`` if the service did.
        """
        tries = TRIES if retry else 1
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
        config = {"model_name": self._config.model, **conversation.settings}
        record = {"type": "llm", "class": self._config.provider.name, "config": config}
        with trace.step({**record, "messages": list(conversation.transcript)}) as step:
            response = await self._request(conversation)
            step["response"] = response.text or [
                {"name": call.tool_name, "arguments": call.args} for call in response.tool_calls
            ]
            trace.record_usage(self._usage(response))
        return response

    async def _request(self, conversation: Conversation) -> ModelResponse:
        messages = conversation.messages
        settings = _settings(conversation.settings, self._config.provider.protocol)
        parameters = ModelRequestParameters(function_tools=list(conversation.tools))
        options: dict[str, Any] = {
            "model_settings": settings,
            "model_request_parameters": parameters,
        }
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                if not self._config.stream:
                    return await model_request(self._model, messages, **options)
                async with model_request_stream(self._model, messages, **options) as parts:
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
            # A failed price lookup costs more than the rest of a request.
            return {**counts, "usd": float(response.cost().total_price)} if self._priced else counts
        except (LookupError, ValueError, AssertionError):
            self._priced = False
            return counts


def definition(tool: Tool) -> ToolDefinition:
    """The tool for pydantic-ai."""
    return ToolDefinition(
        name=tool.name, parameters_json_schema=tool.parameters, description=tool.description
    )


def _settings(settings: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Under pydantic-ai's names."""
    named = dict(settings)
    effort = named.pop("reasoning_effort", None)
    if effort is not None and protocol == "openai":
        named["openai_reasoning_effort"] = effort
    return named


def _open(config: LlmConfig, endpoint: Endpoint, client: httpx2.AsyncClient) -> Model:
    """The SDKs' own retries are off: ``ask`` decides which failure is worth one."""
    if config.provider.protocol == "anthropic":
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        anthropic = AsyncAnthropic(
            api_key=endpoint.key, base_url=endpoint.base_url, max_retries=0, http_client=client
        )
        return AnthropicModel(config.model, provider=AnthropicProvider(anthropic_client=anthropic))
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    from agentpipe.engines.llm.fast_openai import fast_client

    openai = fast_client(endpoint.base_url, endpoint.key, client)
    return OpenAIChatModel(config.model, provider=OpenAIProvider(openai_client=openai))


def _failure(error: Exception) -> AgentFailed:
    """An unreadable response is the service's fault; a refused answer is not."""
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
        permanent=is_permanent(error),
    )
