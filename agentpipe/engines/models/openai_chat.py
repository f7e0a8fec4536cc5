"""OpenAI's chat completions API, which most providers and model servers support."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from agentpipe.engines.models.conversation import (
    Conversation,
    Question,
    Response,
    TokenCounts,
    ToolCall,
    ToolDefinition,
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
    arguments_of,
    arguments_text,
    call_ids,
    count,
    refuse_more_calls,
    text_or_none,
)
from agentpipe.engines.models.sampled_ids import ASKED, JoinedIds, sampled_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.engines.models.providers import Provider

PATH = "/chat/completions"
END = "[DONE]"
_RENAMED = {"stop_sequences": "stop"}
# Fields with a model's reasoning. Models that send them need them back together with their calls.
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")


def headers(key: str) -> dict[str, str]:
    """The headers with the credential."""
    return {"Authorization": f"Bearer {key}"}


# Requests.


def body(
    conversation: Conversation,
    model: str,
    provider: Provider,
    *,
    stream: bool,
    token_ids: bool = False,
) -> dict[str, Any]:
    """Build the request for the conversation's next response."""
    settings = dict(conversation.settings)
    extra = settings.pop("extra_body", {})
    request: dict[str, Any] = {"model": model, "messages": _messages(conversation)}
    if conversation.tools:
        request["tools"] = [_tool(tool, provider) for tool in conversation.tools]
    else:
        settings.pop("parallel_tool_calls", None)
    renamed = {**_RENAMED, **provider.renamed}
    request |= {renamed.get(name, name): value for name, value in settings.items()}
    if stream:
        request["stream"] = True
        if not provider.counts_unasked:
            request["stream_options"] = {"include_usage": True}
    return {**request, **extra, **(ASKED if token_ids else {})}


def _tool(tool: ToolDefinition, provider: Provider) -> dict[str, Any]:
    """The tool with its server's own schema; an empty ``properties`` accepts the same as none."""
    demanded = {"type": "object", "properties": {}} if provider.needs_properties else {}
    parameters = {**demanded, **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _messages(conversation: Conversation) -> list[Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = []
    if conversation.instruction:
        messages.append({"role": "system", "content": conversation.instruction})
    for turn in conversation.turns:
        messages += _of_turn(turn)
    return messages


def _of_turn(turn: Turn) -> Iterable[Mapping[str, Any]]:
    if isinstance(turn, Question):
        return [{"role": "user", "content": turn.text}]
    if isinstance(turn, ToolResults):
        return _results(turn)
    return [turn.turn]


def _results(turn: ToolResults) -> list[Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = [
        {"role": "tool", "tool_call_id": result.call.id, "content": result.text}
        for result in turn.results
    ]
    images = [image for result in turn.results for image in result.images]
    if images:  # A tool message can only contain text.
        urls = [f"data:{image.media_type};base64,{image.data}" for image in images]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages.append({"role": "user", "content": content})
    return messages


# Responses.


def read(answer: Any) -> Response:
    """Read the response in a completion.

    Raises:
        UnreadableResponse: The completion has no valid response.
    """
    completion = an_object(answer, "the response")
    choices = a_list(completion.get("choices"), "choices")
    if not choices:
        raise UnreadableResponse("a completion without choices")
    choice = an_object(choices[0], "choices[0]")
    message = an_object(choice.get("message"), "message")
    content = _text(message.get("content"))
    refusal = text_or_none(message.get("refusal")) or ""
    raw_calls = [
        an_object(c, "tool_calls") for c in a_list(message.get("tool_calls"), "tool_calls")
    ]
    refuse_more_calls(len(raw_calls))
    ids = call_ids(raw.get("id") for raw in raw_calls)
    calls = tuple(map(_call, raw_calls, ids))
    return Response(
        text=content or refusal,
        calls=calls,
        turn=_turn(message, content or refusal, list(zip(raw_calls, calls, strict=True))),
        finish_reason=a_text(choice.get("finish_reason"), "finish_reason") or None,
        refusal=refusal,
        tokens=_tokens(completion.get("usage")),
        id=text_or_none(completion.get("id")),
        model=text_or_none(completion.get("model")),
        sampled=sampled_in(completion, choice),
    )


def error_in(answer: Any) -> Any:
    """The error object in a completion or an event; None if there is none."""
    if error := error_within(answer):
        return error
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return None
    parts = (first, first.get("message"), first.get("delta"))
    found = (part.get("error") for part in parts if isinstance(part, dict))
    return next(filter(None, found), None)


def _text(content: Any) -> str:
    """The content as a string; some servers send a list of parts."""
    if not isinstance(content, list):
        return a_text(content, "content")
    parts = [an_object(part, "content") for part in content]
    return "".join(a_text(part.get("text"), "text") for part in parts if part.get("type") == "text")


def _call(raw: Mapping[str, Any], id_: str) -> ToolCall:
    function = an_object(raw.get("function"), "function")
    name = a_text(function.get("name"), "name")
    return ToolCall(id_, name, arguments_text(function.get("arguments")))


def _turn(
    message: Mapping[str, Any], text: str, calls: list[tuple[Mapping[str, Any], ToolCall]]
) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        turn["tool_calls"] = [_sent_back(raw, call) for raw, call in calls]
        turn |= {name: message[name] for name in _THOUGHTS if message.get(name)}
    return turn


def _sent_back(raw: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
    """The call with the provider's extra fields, such as Gemini's thought signatures.

    Arguments that are not an object become ``{}``: some servers parse them, and refuse the request.
    """
    kept = {name: value for name, value in raw.items() if name != "index"}
    arguments = call.arguments if _is_object(call.arguments) else "{}"
    function = {"name": call.name, "arguments": arguments}
    return {**kept, "id": call.id, "type": "function", "function": function}


def _is_object(arguments: str) -> bool:
    try:
        return bool(arguments_of(arguments))
    except ValueError:
        return False


def _tokens(usage: Any) -> TokenCounts | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    sent, received = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    return TokenCounts(sent, received, min(cached, sent))


# Streams.


class Joined:
    """The completion that a stream's events build up."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._parts: dict[str, list[Any]] = {}
        self._calls: list[tuple[Any, dict[str, Any]]] = []
        self._finish_reason: Any = None
        self._ids = JoinedIds()

    def add(self, event: Any) -> None:
        """Add the next event.

        Raises:
            UnreadableResponse: The event is malformed.
        """
        event = an_object(event, "an event")
        self._kept |= {n: event[n] for n in ("id", "model", "usage") if event.get(n)}
        self._ids.add_prompt(event)
        for each in a_list(event.get("choices"), "choices")[:1]:
            choice = an_object(each, "choices[0]")
            self._add(an_object(choice.get("delta") or {}, "delta"))
            self._ids.add(choice)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def whole(self) -> dict[str, Any]:
        """Return the complete completion.

        Raises:
            IncompleteResponse: The stream ended without a finish reason.
        """
        if self._finish_reason is None:
            raise IncompleteResponse("the stream ended before the answer did")
        message = {name: _joined(parts) for name, parts in self._parts.items()}
        message["tool_calls"] = [_joined_call(call) for _, call in self._calls]
        ids, ids_of_choice = self._ids.whole()
        choice = {"message": message, "finish_reason": self._finish_reason, **ids_of_choice}
        return {**self._kept, **ids, "choices": [choice]}

    def _add(self, delta: Mapping[str, Any]) -> None:
        for name in ("content", "refusal", *_THOUGHTS):
            if part := delta.get(name):
                self._append(name, part)
        for each in a_list(delta.get("tool_calls"), "tool_calls"):
            self._add_call(an_object(each, "tool_calls"))

    def _append(self, name: str, part: Any) -> None:
        if name == "content":
            part = _text(part)
        parts = self._parts.setdefault(name, [])
        if not isinstance(part, (str, list)) or (parts and type(parts[0]) is not type(part)):
            raise UnreadableResponse(f"{name}: expected a string")
        parts.append(part)

    def _add_call(self, part: dict[str, Any]) -> None:
        """Add a part of a call at its ``index``, which some servers omit or repeat."""
        function = an_object(part.get("function") or {}, "function")
        call = self._call_for(part)
        call |= {name: value for name, value in part.items() if name != "function" and value}
        known = call.setdefault("function", {"name": "", "arguments": []})
        known["name"] = known["name"] or a_text(function.get("name"), "name")
        known["arguments"].append(arguments_text(function.get("arguments")))

    def _call_for(self, part: Mapping[str, Any]) -> dict[str, Any]:
        index = part.get("index")
        call: dict[str, Any]
        for at, call in reversed(self._calls):
            if (index is None or at == index) and not _is_other(part.get("id"), call.get("id")):
                return call
        refuse_more_calls(len(self._calls) + 1)
        self._calls.append((index, {}))
        return self._calls[-1][1]


def _joined(parts: list[Any]) -> Any:
    """Join parts once at the end: appending each to a string would take quadratic time."""
    return "".join(parts) if isinstance(parts[0], str) else [*chain.from_iterable(parts)]


def _joined_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": "".join(function["arguments"])}}


def _is_other(new: Any, known: Any) -> bool:
    return bool(new and known) and new != known
