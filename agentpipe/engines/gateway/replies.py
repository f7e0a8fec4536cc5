"""Replies that a gateway makes itself, and what it removes from a model server's replies."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentpipe.core.outside import encoded
from agentpipe.engines.gateway.error_bodies import error_body
from agentpipe.engines.policies import RETRY_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.gateway.http_server import Reply

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}
# Response headers that the client needs.
_PASSED = ("content-type", "retry-after", "retry-after-ms", "x-request-id", "request-id")
_OF_ANSWER = ("prompt_token_ids",)
_OF_CHOICE = ("token_ids", "weight_versions")


async def refuse(
    reply: Reply, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Reply with an error."""
    await reply.whole(status, {**JSON, **headers}, error_body(message))


async def refuse_paused(reply: Reply) -> None:
    """Reply that the policy is paused; official clients retry after ``RETRY_AFTER_S``."""
    text = "the policy is paused for a new version: ask again"
    await refuse(reply, 429, text, {"retry-after": str(RETRY_AFTER_S)})


def passed(headers: Mapping[str, str]) -> dict[str, str]:
    """The server's headers that are passed to the client."""
    return {name: headers[name] for name in _PASSED if name in headers}


def as_stream(completion: Mapping[str, Any]) -> bytes:
    """Encode a completion as an event stream that contains it in one piece."""
    envelope = {**completion, "object": "chat.completion.chunk"}
    choices = [_as_delta(choice) for choice in completion.get("choices", ())]
    events = [{**envelope, "choices": choices, "usage": None}, {**envelope, "choices": []}]
    return b"".join(b"data: %b\n\n" % encoded(event) for event in events) + b"data: [DONE]\n\n"


def _as_delta(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message") or {}
    calls = [{**call, "index": n} for n, call in enumerate(message.get("tool_calls") or ())]
    delta = {**message, **({"tool_calls": calls} if calls else {})}
    return {**_without(choice, ("message",)), "delta": delta}


def as_asked(answer: Any, asked: Mapping[str, Any]) -> Any:
    """A completion or stream event without the ids and logprobs that the client did not ask for."""
    if not isinstance(answer, dict):
        return answer
    wants_ids, wants_logprobs = asked.get("return_token_ids"), asked.get("logprobs")
    shown = answer if wants_ids else _without(answer, _OF_ANSWER)
    hidden = (() if wants_ids else _OF_CHOICE) + (() if wants_logprobs else ("logprobs",))
    choices = shown.get("choices")
    if hidden and isinstance(choices, list):
        return {**shown, "choices": [_without(choice, hidden) for choice in choices]}
    return shown


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: item for name, item in value.items() if name not in names}
