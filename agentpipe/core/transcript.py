"""Transcripts: the conversations with models that a run's spans hold, each in one piece.

A request of our own engine records the messages since the one before. One of MCP-Universe's
records all of them each time. Both become the same here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# What a request begins with that does not go on from an earlier one.
_OPENERS = ("system", "developer", "user")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One conversation with a model, in the form of OpenAI's chat completions.

    Attributes:
        messages: With the responses: ``role``, ``content``, ``tool_calls``, ``tool_call_id``.
        tools: The definitions that the model had last; empty where the spans have none.
        complete: Nothing of the trace was cut or left out.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request to a model, with all that it saw.

    Attributes:
        span: Its span.
        data: The record of the request.
        messages: Those of the whole conversation so far; the same objects from request to request.
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
        parent: The id of the span below which its requests are.
        asked: What its last request sent.
    """

    parent: Any
    asked: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: tuple[dict[str, Any], ...] = ()

    def ask(self, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Go on with what a request sent; those messages that are new."""
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
    """The conversations of a trace, in the order in which they begin.

    Agents that call several models have several; so has one that puts its whole history into one
    message. Spans of others that are malformed are passed over.
    """
    conversations = Conversations()
    for span, data in records_of(trace):
        if data.get("type") == "llm":
            conversations.add(span, data)
    return conversations.whole(complete=is_complete(trace))


def requests_of(trace: Iterable[Any]) -> Iterator[ModelRequest]:
    """Each request of a trace, in the order in which they end."""
    conversations = Conversations()
    for span, data in records_of(trace):
        if data.get("type") == "llm":
            yield conversations.add(span, data)


class Conversations:
    """Takes the requests of a run one by one, in the order in which their spans end."""

    def __init__(self) -> None:
        self._open: list[_Open] = []

    def add(self, span: Mapping[str, Any], data: Mapping[str, Any]) -> ModelRequest:
        """Take the record of a request."""
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
        """Those that have a message."""
        return [
            Transcript(tuple(each.messages), each.tools, complete)
            for each in self._open
            if each.messages
        ]

    def _of(self, parent: Any, sent: list[dict[str, Any]]) -> _Open:
        """The conversation that a request belongs to."""
        conversation = _continued(self._open, parent, sent)
        if conversation is None:
            conversation = _Open(parent)
            self._open.append(conversation)
        return conversation


def records_of(trace: Iterable[Any]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Each record's data with its span; what is not of a span's form is passed over."""
    for span in trace:
        records = span.get("records") if isinstance(span, dict) else None
        for record in records if isinstance(records, list) else ():
            data = record.get("data") if isinstance(record, dict) else None
            if isinstance(data, dict):
                yield span, data


def is_complete(trace: Sequence[Any]) -> bool:
    """Whether each span is there, with all that it recorded."""
    for place, span in enumerate(trace):
        if not isinstance(span, dict) or span.get("span_index", place) != place:
            return False
    return not any("dropped" in data for _, data in records_of(trace))


def _continued(
    conversations: Sequence[_Open], parent: Any, sent: list[dict[str, Any]]
) -> _Open | None:
    """The conversation that a request goes on with: the last one under the same span."""
    siblings = (each for each in reversed(conversations) if each.parent == parent)
    if not _opens(sent):
        return next(siblings, None)
    return next((each for each in siblings if sent[: len(each.asked)] == each.asked), None)


def _opens(sent: Sequence[Mapping[str, Any]]) -> bool:
    return bool(sent) and sent[0].get("role") in _OPENERS


def _answer(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The response as a message; None where there is none."""
    response = data.get("response")
    calls = data.get("tool_calls")
    if isinstance(response, dict) and (inner := _first_choice(response)) is not None:
        response, calls = inner.get("content"), inner.get("tool_calls") or calls
    elif calls is None and isinstance(response, list):
        # MCP-Universe records the calls alone.
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
    """A call in OpenAI's form, whether it was flat or had that already."""
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
