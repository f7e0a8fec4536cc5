"""Why a model stopped: the providers' words, and their meaning for the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.result import CONTENT_FILTER, LENGTH, REFUSAL, STOP

if TYPE_CHECKING:
    from agentpipe.engines.models.conversation import Response

# First the words of OpenAI and Anthropic, then those of vLLM, SGLang, Mistral, Gemini, DeepSeek and
# Zhipu. With any other word, it is unknown whether the answer is complete.
_STOPS = {
    **dict.fromkeys(
        ("stop", "end_turn", "stop_sequence", "tool_calls", "tool_use", "function_call"), STOP
    ),
    **dict.fromkeys(("eos", "eos_token", "end", "complete", "completed", "end_of_text"), STOP),
    "length": LENGTH,
    "max_tokens": LENGTH,
    "model_length": LENGTH,
    "content_filter": CONTENT_FILTER,
    "sensitive": CONTENT_FILTER,
    "safety": CONTENT_FILTER,
    "recitation": CONTENT_FILTER,
    "prohibited_content": CONTENT_FILTER,
    **dict.fromkeys(("blocklist", "spii", "image_safety"), CONTENT_FILTER),
    "refusal": REFUSAL,
}
# Words for an answer that the provider abandoned midway.
_FAILED = frozenset(
    {
        *("error", "failed", "failure", "abort", "aborted", "cancelled", "canceled", "timeout"),
        *("network_error", "insufficient_system_resource", "load", "overloaded", "server_error"),
        *("malformed_function_call", "unexpected_tool_call"),
    }
)
_CALLS = frozenset({"tool_calls", "tool_use", "function_call"})
_CUTS: dict[str | None, str] = {
    LENGTH: "at its limit of tokens",
    CONTENT_FILTER: "by a filter",
    REFUSAL: "by a filter",
}
_PAUSED = "pause_turn"
_OUT_OF_CONTEXT = "model_context_window_exceeded"


def stop_of(response: Response) -> str | None:
    """The Result's ``stop`` for this response; None if the reason is unknown."""
    if response.refusal:
        return REFUSAL
    if response.finish_reason is None:
        return None
    return _STOPS.get(response.finish_reason.lower())


def cut(response: Response) -> str:
    """How the provider cut the response short, as text for the model; empty if it did not."""
    return _CUTS.get(stop_of(response), "")


def failed(response: Response) -> bool:
    """Whether the provider failed before the answer was complete, or lost its calls."""
    reason = (response.finish_reason or "").lower()
    return reason in _FAILED or (reason in _CALLS and not response.calls)


def paused(response: Response) -> bool:
    """Whether the model continues if asked again."""
    return response.finish_reason == _PAUSED


def out_of_context(response: Response) -> bool:
    """Whether the conversation fills the model's context window."""
    return response.finish_reason == _OUT_OF_CONTEXT
