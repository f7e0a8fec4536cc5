"""Anthropic's Messages API.

Message content is a list of blocks. A response's blocks are sent back unchanged: thinking blocks
are signed, and changed ones are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.outside import read_json
from agentpipe.engines.models.conversation import (
    Conversation,
    Question,
    Response,
    TokenCounts,
    ToolCall,
    ToolDefinition,
    ToolResult,
    ToolResults,
    Turn,
)
from agentpipe.engines.models.errors_within import error_within
from agentpipe.engines.models.reading import (
    IncompleteResponse,
    UnreadableResponse,
    a_list,
    a_text,
    an_object,
    arguments_text,
    call_ids,
    count,
    refuse_more_calls,
    text_or_none,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.mcp.content import Image
    from agentpipe.engines.models.providers import Provider

PATH = "/v1/messages"
END = None
_VERSION = "2023-06-01"
# The protocol has no other settings: a task's seed, for example, cannot be sent.
_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "stop_sequences")
# The protocol requires a limit. Claude 3 cannot write more; all later models can write this much.
_MAX_TOKENS = (("claude-3", 4_096), ("claude", 32_000))
_OTHERS_MAX_TOKENS = 16_384
_BEYOND_THOUGHTS = 4_096


def headers(key: str) -> dict[str, str]:
    """The headers with the credential."""
    return {"x-api-key": key, "anthropic-version": _VERSION}


# Requests.


def body(
    conversation: Conversation,
    model: str,
    provider: Provider,  # noqa: ARG001 - the protocol has only one
    *,
    stream: bool,
    token_ids: bool = False,  # noqa: ARG001 - the protocol has no token ids
) -> dict[str, Any]:
    """Build the request for the conversation's next response."""
    settings = conversation.settings
    extra = settings.get("extra_body", {})
    request: dict[str, Any] = {"model": model, "max_tokens": _default_max_tokens(model, extra)}
    request |= {name: settings[name] for name in _SETTINGS if name in settings}
    if conversation.instruction:
        request["system"] = conversation.instruction
    request["messages"] = list(map(_of_turn, conversation.turns))
    if conversation.tools:
        request["tools"] = [_tool(tool) for tool in conversation.tools]
        if settings.get("parallel_tool_calls") is False:
            request["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
    if stream:
        request["stream"] = True
    return {**request, **extra}


def _default_max_tokens(model: str, extra: Mapping[str, Any]) -> int:
    """A default that leaves room for the answer after the thinking that ``extra_body`` allows."""
    known = (most for prefix, most in _MAX_TOKENS if model.startswith(prefix))
    thinking = extra.get("thinking")
    budget = count(thinking.get("budget_tokens")) if isinstance(thinking, dict) else 0
    return max(next(known, _OTHERS_MAX_TOKENS), budget + _BEYOND_THOUGHTS)


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": {"type": "object", **tool.parameters},
    }


def _of_turn(turn: Turn) -> Mapping[str, Any]:
    if isinstance(turn, Question):
        return {"role": "user", "content": turn.text}
    if isinstance(turn, ToolResults):
        return {"role": "user", "content": list(map(_result, turn.results))}
    return turn.turn


def _result(result: ToolResult) -> dict[str, Any]:
    content: Any = result.text
    if result.images:
        text = [{"type": "text", "text": result.text}] if result.text else []
        content = [*text, *map(_image, result.images)]
    return {"type": "tool_result", "tool_use_id": result.call.id, "content": content}


def _image(image: Image) -> dict[str, Any]:
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


# Responses.


def read(answer: Any) -> Response:
    """Read the response in a message.

    Raises:
        UnreadableResponse: The message has no valid response.
    """
    message = an_object(answer, "the response")
    if not isinstance(message.get("content"), list):
        raise UnreadableResponse("a message without content")
    blocks = [an_object(block, "content") for block in message["content"]]
    uses = {n: block for n, block in enumerate(blocks) if block.get("type") == "tool_use"}
    refuse_more_calls(len(uses))
    ids = call_ids(block.get("id") for block in uses.values())
    calls = {n: _call(block, id_) for (n, block), id_ in zip(uses.items(), ids, strict=True)}
    texts = [a_text(block.get("text"), "text") for block in blocks if block.get("type") == "text"]
    sent_back = [_sent_back(block, calls.get(n)) for n, block in enumerate(blocks)]
    return Response(
        text="".join(texts),
        calls=tuple(calls.values()),
        turn={"role": "assistant", "content": [block for block in sent_back if block]},
        finish_reason=a_text(message.get("stop_reason"), "stop_reason") or None,
        tokens=_tokens(message.get("usage")),
        id=text_or_none(message.get("id")),
        model=text_or_none(message.get("model")),
    )


def error_in(answer: Any) -> Any:
    """The error object in a message or an event; None if it has none."""
    return error_within(answer)


def _call(block: Mapping[str, Any], id_: str) -> ToolCall:
    name = a_text(block.get("name"), "name")
    return ToolCall(id_, name, arguments_text(block.get("input")))


def _sent_back(block: Mapping[str, Any], call: ToolCall | None) -> Mapping[str, Any] | None:
    """The block without what Anthropic refuses: empty text, and input that is not an object."""
    if call:
        given = block.get("input")
        return {**block, "id": call.id, "input": given if isinstance(given, dict) else {}}
    return None if block.get("type") == "text" and not block.get("text") else block


def _tokens(usage: Any) -> TokenCounts | None:
    if not isinstance(usage, dict):
        return None
    read_, written = (
        count(usage.get(f"cache_{name}_input_tokens")) for name in ("read", "creation")
    )
    sent = count(usage.get("input_tokens")) + read_ + written
    return TokenCounts(sent, count(usage.get("output_tokens")), read_, written)


# Streams.


class Joined:
    """The message that a stream's events build up."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[str, dict[str, Any]] = {}
        # Joined once at the end: appending each part to a string would take quadratic time.
        self._parts: dict[tuple[str, str], list[str]] = {}
        self._citations: dict[str, list[Any]] = {}

    def add(self, event: Any) -> None:
        """Add the next event.

        Raises:
            UnreadableResponse: The event is malformed.
        """
        event = an_object(event, "an event")
        kind, index = event.get("type"), str(event.get("index"))
        if kind == "message_start":
            self._keep(an_object(event.get("message"), "message"))
        elif kind == "content_block_start":
            self._blocks[index] = dict(an_object(event.get("content_block"), "content_block"))
        elif kind == "content_block_delta":
            self._add(index, an_object(event.get("delta"), "delta"))
        elif kind == "message_delta":
            self._keep({**an_object(event.get("delta"), "delta"), "usage": event.get("usage")})

    def whole(self) -> dict[str, Any]:
        """Return the complete message.

        Raises:
            IncompleteResponse: The stream ended without a stop reason.
        """
        if not self._message.get("stop_reason"):
            raise IncompleteResponse("the stream ended before the answer did")
        for (index, name), parts in self._parts.items():
            text = "".join(parts)
            self._blocks[index][name] = _input(text) if name == "input" else text
        for index, citations in self._citations.items():
            self._blocks[index]["citations"] = citations
        usage = self._usage or None
        return {**self._message, "content": list(self._blocks.values()), "usage": usage}

    def _keep(self, part: Mapping[str, Any]) -> None:
        """Replace earlier values by later ones, but ignore nulls."""
        usage = part.get("usage")
        self._usage |= {n: v for n, v in usage.items() if v} if isinstance(usage, dict) else {}
        self._message |= {n: part[n] for n in ("id", "model", "stop_reason") if part.get(n)}

    def _add(self, index: str, delta: Mapping[str, Any]) -> None:
        block = an_object(self._blocks.get(index), "content_block")
        for name in ("text", "thinking", "signature"):
            if name in delta:
                parts = self._parts.setdefault((index, name), [a_text(block.get(name), name)])
                parts.append(a_text(delta[name], name))
        if "partial_json" in delta:
            part = a_text(delta["partial_json"], "partial_json")
            self._parts.setdefault((index, "input"), []).append(part)
        if "citation" in delta:
            begun = a_list(block.get("citations"), "citations")
            self._citations.setdefault(index, [*begun]).append(delta["citation"])


def _input(text: str) -> Any:
    """A call's input as JSON; broken JSON stays a string."""
    try:
        return read_json(text.encode(errors="replace"), exact=True) if text else {}
    except ValueError:
        return text
