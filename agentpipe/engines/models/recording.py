"""What a response of a model leaves in its run's trace, usage and rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core import trace
from agentpipe.core.token_rows import Turn
from agentpipe.engines.models.prices import usd_of
from agentpipe.engines.models.sampled_ids import ASKED
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.models.conversation import Response


def response_record(response: Response, usage: Mapping[str, Any]) -> dict[str, Any]:
    """For its span."""
    calls = [
        {"id": call.id, "name": call.name, "arguments": call.arguments} for call in response.calls
    ]
    return {
        "response": response.text,
        "tool_calls": calls,
        "finish_reason": response.finish_reason,
        "response_id": response.id,
        "usage": usage,
    }


def usage_of(response: Response, provider: str, model: str) -> dict[str, Any]:
    """Its tokens, and its price where that is known; ``model`` is the one that was asked for."""
    tokens = response.tokens
    if tokens is None:
        return {"requests": 1}
    counts = {
        "requests": 1,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cached_tokens": tokens.cache_read,
    }
    usd = usd_of(tokens, provider, response.model or model)
    return counts if usd is None else {**counts, "usd": usd}


def turn_of(response: Response, settings: Mapping[str, Any]) -> Turn | None:
    """For a rollout, within the span of its request; None where its ids did not come."""
    ids = response.sampled
    if ids is None:
        return None
    return Turn(
        ids.prompt_ids,
        ids.token_ids,
        ids.logprobs,
        span=trace.span_id(),
        finish=response.finish_reason,
        temperature=settings.get("temperature"),
        top_p=settings.get("top_p"),
        versions=ids.versions,
    )


def refuses_ids(text: str) -> bool:
    """Whether an error says that the request for ids is what a server refuses."""
    return any(name in text for name in ASKED)


def without_ids(failure: AgentFailed) -> AgentFailed:
    """What that means for a run that needs them."""
    return AgentFailed(
        f"the model's server gives no token ids: {failure}; "
        "serve the model with vLLM, or write `record: {tokens: try}`",
        kind="NoTokenIds",
        permanent=True,
    )
