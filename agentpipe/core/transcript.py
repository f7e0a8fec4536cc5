"""Transcripts: reassemble the conversations with models from a run's spans.

Requests of our own engine record only the messages since the previous request. MCP-Universe's
record all messages each time. Both produce the same transcripts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# Roles that start a request which does not continue an earlier one.
_OPENERS = ("system", "developer", "user")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One conversation with a model, in OpenAI's chat completions format.

    Attributes:
        messages: Including responses: ``role``, ``content``, ``tool_calls``, ``tool_call_id``.
        tools: The model's latest tool definitions; empty if the spans have none.
        complete: Whether nothing of the trace was cut or left out.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request to a model, with everything that the model saw.

    Attributes:
        span: The request's span.
        data: The request's record.
        messages: The whole conversation so far; requests share the same message objects.
        new: Those of ``messages`` that no earlier request of the conversation had.
        answer: The response as a message; None if there is none.
    """

    span: Mapping[str, Any]
    data: Mapping[str, Any]
    messages: tuple[dict[str, Any], ...]
    new: tuple[dict[str, Any], ...]
    answer: dict[str, Any] | None


@dataclass(slots=True)
class _Open:
    """A conversation while its requests are read.

    Attributes:
        parent: Id of the parent span of its requests.
        asked: What its last request sent.
    """

    parent: Any
    asked: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: tuple[dict[str, Any], ...] = ()

    def ask(self, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Continue with a request's messages; return the new ones."""
        if not _opens(sent):
            self.messages += sent
            self.asked = list(self.messages)
            return sent
        new = sent[len(self.asked) :]
        if self.asked and new and new[0].get("role") == "assistant":
            new = new[1:]  # The last response, repeated.
        self.asked, self.messages = sent, list(sent)
        return new


def transcripts(trace: Sequence[Any]) -> list[Transcript]:
    """Return the conversations of a trace, in order of their start.

    An agent that calls several models has several conversations. So does one that puts its whole
    history into one message. Malformed foreign spans are skipped.
    """
    conversations = Conversations()
    for span, data in records_of(trace):
        if data.get("type") == "llm":
            conversations.add(span, data)
    return conversations.whole(complete=is_complete(trace))


def requests_of(trace: Iterable[Any]) -> Iterator[ModelRequest]:
    """Yield each request of a trace, in the order in which they end."""
    conversations = Conversations()
    for span, data in records_of(trace):
        if data.get("type") == "llm":
            yield conversations.add(span, data)


class Conversations:
    """Takes a run's requests one by one, in the order in which their spans end."""

    def __init__(self) -> None:
        self._open: list[_Open] = []

    def add(self, span: Mapping[str, Any], data: Mapping[str, Any]) -> ModelRequest:
        """Add the record of a request."""
        sent = _objects(data.get("messages"))
        conversation = self._of(span.get("parent_id"), sent)
        if tools := _objects(data.get("tools")):
            conversation.tools = tuple(map(_definition, tools))
        new = tuple(conversation.ask(sent))
        messages = tuple(conversation.messages)
        answer = None if data.get("error") else _answer(data)
        if answer:
            conversation.messages.append(answer)
        return ModelRequest(span, data, messages, new, answer)

    def whole(self, *, complete: bool = True) -> list[Transcript]:
        """Return the conversations that have messages."""
        return [
            Transcript(tuple(each.messages), each.tools, complete)
            for each in self._open
            if each.messages
        ]

    def _of(self, parent: Any, sent: list[dict[str, Any]]) -> _Open:
        """Return the conversation that a request belongs to, creating it if needed."""
        conversation = _continued(self._open, parent, sent)
        if conversation is None:
            conversation = _Open(parent)
            self._open.append(conversation)
        return conversation


def records_of(trace: Iterable[Any]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Yield each record's data with its span; malformed spans are skipped."""
    for span in trace:
        records = span.get("records") if isinstance(span, dict) else None
        for record in records if isinstance(records, list) else ():
            data = record.get("data") if isinstance(record, dict) else None
            if isinstance(data, dict):
                yield span, data


def is_complete(trace: Sequence[Any]) -> bool:
    """Whether no span is missing, and none had records dropped."""
    for place, span in enumerate(trace):
        if not isinstance(span, dict) or span.get("span_index", place) != place:
            return False
    return not any("dropped" in data for _, data in records_of(trace))


def _continued(
    conversations: Sequence[_Open], parent: Any, sent: list[dict[str, Any]]
) -> _Open | None:
    """Return the conversation that a request continues: the latest under the same span."""
    siblings = (each for each in reversed(conversations) if each.parent == parent)
    if not _opens(sent):
        return next(siblings, None)
    return next((each for each in siblings if sent[: len(each.asked)] == each.asked), None)


def _opens(sent: Sequence[Mapping[str, Any]]) -> bool:
    return bool(sent) and sent[0].get("role") in _OPENERS


def _answer(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the response as a message; None if there is none."""
    response = data.get("response")
    calls = data.get("tool_calls")
    if isinstance(response, dict) and (inner := _first_choice(response)) is not None:
        response, calls = inner.get("content"), inner.get("tool_calls") or calls
    elif calls is None and isinstance(response, list):
        # MCP-Universe records only the calls.
        response, calls = None, response
    text = response if isinstance(response, str) or response is None else _json(response)
    made = [_call(call, place) for place, call in enumerate(_objects(calls))]
    if not made and not text:
        return None
    return {
        "role": "assistant",
        "content": text or None,
        **({"tool_calls": made} if made else {}),
    }


def _first_choice(response: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choice = next(iter(_objects(response.get("choices"))), {})
    message = choice.get("message")
    return message if isinstance(message, dict) else None


def _call(call: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return a call in OpenAI's format, from a flat call or one already in that format."""
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    arguments = inner.get("arguments")
    return {
        "id": call.get("id") or f"call_{place}",
        "type": "function",
        "function": {
            "name": str(inner.get("name", "")),
            "arguments": arguments if isinstance(arguments, str) else _json(arguments or {}),
        },
    }


def _definition(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": tool}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
