"""Messages and model outputs in inspect_ai's form."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.archive.export.conversation import text_of
from agentpipe.core.numbers import is_number
from agentpipe.core.result import CONTENT_FILTER, LENGTH, REFUSAL, STOP
from agentpipe.core.usage import MAX_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Json = dict[str, Any]
_ROLES = {"system": "system", "developer": "system", "assistant": "assistant", "tool": "tool"}
_STOPS = {
    STOP: "stop",
    LENGTH: "max_tokens",
    CONTENT_FILTER: "content_filter",
    REFUSAL: "content_filter",
    "tool_calls": "tool_calls",
    # Anthropic's names.
    "end_turn": "stop",
    "max_tokens": "max_tokens",
    "tool_use": "tool_calls",
}


def messages_of(messages: Iterable[Mapping[str, Any]], model: str) -> list[Json]:
    """A conversation in inspect_ai's form."""
    functions: dict[str, str] = {}
    converted = []
    for each in messages:
        message = message_of(each, model)
        functions |= {call["id"]: call["function"] for call in message.get("tool_calls", ())}
        if function := functions.get(message.get("tool_call_id", "")):
            message["function"] = function
        converted.append(message)
    return converted


def message_of(message: Mapping[str, Any], model: str) -> Json:
    """One message; a role that inspect_ai does not know becomes the user's."""
    role = _ROLES.get(str(message.get("role")), "user")
    converted: Json = {"role": role, "content": text_of(message.get("content")) or ""}
    if role == "tool":
        converted["tool_call_id"] = str(message.get("tool_call_id", ""))
    if role != "assistant":
        return converted
    converted |= {"source": "generate", "model": model}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        converted["tool_calls"] = [_call(each) for each in calls if isinstance(each, dict)]
    return converted


def _call(call: Mapping[str, Any]) -> Json:
    """A call; arguments that are not an object are kept, with a parse error."""
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    written = inner.get("arguments")
    converted: Json = {
        "id": str(call.get("id", "")),
        "function": str(inner.get("name", "")),
        "type": "function",
        "arguments": {},
    }
    with suppress(orjson.JSONDecodeError):
        written = orjson.loads(written or "{}") if isinstance(written, str) else written or {}
    if isinstance(written, dict):
        return {**converted, "arguments": written}
    error = "the arguments are not a JSON object"
    return {**converted, "arguments": {"arguments": written}, "parse_error": error}


def output_of(message: Json, model: str, finish_reason: Any = None) -> Json:
    """The model output that consists of one message."""
    default = "tool_calls" if message.get("tool_calls") else "stop"
    stop = _STOPS.get(str(finish_reason), default)
    return {
        "model": model,
        "choices": [{"message": message, "stop_reason": stop}],
        "completion": message["content"],
    }


def usage_of(usage: Mapping[str, Any]) -> Json:
    """Usage in inspect_ai's form: its input tokens exclude cached ones, ours include them."""
    total, output, cached = (
        _count(usage.get(name)) for name in ("input_tokens", "output_tokens", "cached_tokens")
    )
    usd = usage.get("usd")
    return {
        "input_tokens": max(0, total - cached),
        "output_tokens": output,
        "total_tokens": total + output,
        "input_tokens_cache_read": cached,
        "total_cost": usd if is_number(usd) else None,
    }


def _count(value: Any) -> int:
    return int(value) if is_number(value) and 0 <= value <= MAX_NUMBER else 0
