"""Conversation: messages to a model and its responses, independent of the provider.

The protocols (``openai_chat``, ``anthropic_messages``) convert these records to requests, and
responses to these records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.engines.mcp.content import Image

# The record must also have room for the messages.
MAX_TOOLS_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool that the model can call.

    Attributes:
        parameters: A JSON schema, as the tool's server gave it.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a response requests.

    Attributes:
        id: Generated if the model gave none.
        arguments: As the model wrote them: usually JSON, sometimes broken or empty.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one call."""

    call: ToolCall
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """The user's message."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolResults:
    """The results of all calls of one response, in the order of the calls."""

    results: tuple[ToolResult, ...]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one request.

    Attributes:
        input: All input tokens, including cached ones.
        cache_read: The part of ``input`` that was read from the provider's cache.
        cache_write: The part of ``input`` that was written to it.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True, slots=True)
class SampledIds:
    """The token ids of one request, as its serving engine has them.

    Attributes:
        logprobs: One for each of ``token_ids``.
        versions: Policy versions, each with its range of ``token_ids``, if the engine reports them.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    versions: tuple[tuple[str | int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """One response of a model.

    Attributes:
        finish_reason: The provider's own word for why it ended; None if it gave none.
        refusal: Why the model refuses; empty if it does not.
        tokens: None if the provider did not count them.
        model: The model that answered, as the provider names it.
        turn: The response in the provider's format, as it is sent back in the next request.
        sampled: Its token ids, if they were requested and returned.
    """

    text: str
    calls: tuple[ToolCall, ...]
    turn: Mapping[str, Any]
    finish_reason: str | None = None
    refusal: str = ""
    tokens: TokenCounts | None = None
    id: str | None = None
    model: str | None = None
    sampled: SampledIds | None = None


Turn = Question | Response | ToolResults


@dataclass(slots=True)
class Conversation:
    """The conversation of one task; it grows with each turn."""

    settings: Mapping[str, Any]
    tools: Sequence[ToolDefinition]
    instruction: str = ""
    turns: list[Turn] = field(default_factory=list)
    _recorded: int = 0
    _recorded_tools: Sequence[ToolDefinition] = ()

    def unrecorded(self) -> list[dict[str, Any]]:
        """The messages since the previous call of this method, for the trace.

        Responses are left out: each is in the span of its own request.
        """
        first = not self._recorded and self.instruction
        messages = [{"role": "system", "content": self.instruction}] if first else []
        for turn in self.turns[self._recorded :]:
            messages += _messages(turn)
        self._recorded = len(self.turns)
        return messages

    def unrecorded_tools(self) -> list[dict[str, Any]]:
        """The tools for the trace; empty if they are the same as in the previous call.

        Only their names, if a record has no room for the rest or cannot encode it.
        """
        if list(self.tools) == list(self._recorded_tools):
            return []
        self._recorded_tools = self.tools
        whole = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in self.tools
        ]
        return whole if _fits(whole) else [{"name": tool.name} for tool in self.tools]


def _fits(definitions: list[dict[str, Any]]) -> bool:
    try:
        return len(orjson.dumps(definitions)) <= MAX_TOOLS_BYTES
    except TypeError:  # An integer that does not fit in 64 bits.
        return False


def _messages(turn: Turn) -> list[dict[str, Any]]:
    if isinstance(turn, Question):
        return [{"role": "user", "content": turn.text}]
    if isinstance(turn, ToolResults):
        return [
            {"role": "tool", "tool_call_id": result.call.id, "content": result.text}
            for result in turn.results
        ]
    return []
