"""Conversation: what is sent to a model and what it answered, in no provider's form.

The protocols (``openai_chat``, ``anthropic_messages``) turn these records into requests, and
responses into these records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.engines.mcp.content import Image

# Beside them, a record must have room for the messages.
MAX_TOOLS_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool that the model may call.

    Attributes:
        parameters: A JSON schema, as its server gave it.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a response requests.

    Attributes:
        id: Made up where the model gave none.
        arguments: As the model wrote them: usually JSON, sometimes broken, or empty.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call returned."""

    call: ToolCall
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What the user says."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolResults:
    """The results of all calls of one response, in its order."""

    results: tuple[ToolResult, ...]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one request.

    Attributes:
        input: All of them, cached ones included.
        cache_read: Of ``input``, read from the provider's cache.
        cache_write: Of ``input``, written to it.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True, slots=True)
class SampledIds:
    """The token ids of one request as its serving engine has them.

    Attributes:
        logprobs: One for each of ``token_ids``.
        versions: Policy versions with the range of ``token_ids`` of each, where the engine says it.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    versions: tuple[tuple[str | int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """One response of a model.

    Attributes:
        finish_reason: The provider's own word for why it ended; None if it said nothing.
        refusal: Why the model refuses; empty if it does not.
        tokens: None if the provider did not count them.
        model: The model that answered, as the provider calls it.
        turn: The response in the provider's form, as it is sent back with the next request.
        sampled: Its token ids, where they were asked for and came.
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
    """One task's; it grows with each turn."""

    settings: Mapping[str, Any]
    tools: Sequence[ToolDefinition]
    instruction: str = ""
    turns: list[Turn] = field(default_factory=list)
    _recorded: int = 0
    _recorded_tools: Sequence[ToolDefinition] = ()

    def unrecorded(self) -> list[dict[str, Any]]:
        """The messages since the last call of this, for the trace.

        Responses are not among them: each is in the span of its own request.
        """
        first = not self._recorded and self.instruction
        messages = [{"role": "system", "content": self.instruction}] if first else []
        for turn in self.turns[self._recorded :]:
            messages += _messages(turn)
        self._recorded = len(self.turns)
        return messages

    def unrecorded_tools(self) -> list[dict[str, Any]]:
        """The tools, unless the last call of this gave the same.

        Only their names, where a record has no room for more or cannot hold it.
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
    except TypeError:  # A number beyond 64 bits.
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
