"""The events of a sample, made from the spans of its run."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentpipe.archive.export.conversation import text_of
from agentpipe.archive.export.inspect.messages import (
    Json,
    message_of,
    output_of,
    usage_of,
)
from agentpipe.core.outside import encoded
from agentpipe.core.transcript import records_of, requests_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.core.result import Result
    from agentpipe.core.transcript import ModelRequest

NO_MODEL = "none/none"
# Upper limit in Unix seconds: beyond it, some readers reject the time.
_MAX_TIME_S = 253_402_300_000


class _Pool:
    """The messages of all model events, each stored once; events refer to them by number."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.messages: list[Json] = []
        self._by_object: dict[int, int] = {}
        self._by_content: dict[bytes, int] = {}
        # Keeps the objects alive: the id of a collected object can be reused.
        self._held: list[Any] = []

    def ranges(self, messages: Sequence[dict[str, Any]]) -> list[list[int]]:
        """The messages' numbers, as half-open ranges."""
        found: list[list[int]] = []
        for number in map(self._number, messages):
            if found and found[-1][1] == number:
                found[-1][1] = number + 1
            else:
                found.append([number, number + 1])
        return found

    def _number(self, message: dict[str, Any]) -> int:
        number = self._by_object.get(id(message))
        if number is None:
            converted = message_of(message, self._model)
            number = self._by_content.setdefault(encoded(converted), len(self.messages))
            if number == len(self.messages):
                self.messages.append(converted)
            self._by_object[id(message)] = number
            self._held.append(message)
        return number


def model_of(result: Result) -> str:
    """The first model that the run called, in the form ``provider/model``."""
    for _, data in records_of(result.trace):
        if data.get("type") == "llm":
            return model_in(data)
    return NO_MODEL


def model_in(data: Mapping[str, Any]) -> str:
    """The model in the record of a request."""
    config = data.get("config")
    name = config.get("model_name") if isinstance(config, dict) else None
    return f"{data.get('class') or 'none'}/{name or 'none'}"


def events_of(result: Result, start_s: float | None) -> tuple[list[Json], list[Json]]:
    """The events in order of time, and the messages that they refer to.

    Args:
        result: The run's Result.
        start_s: When the run began, in Unix seconds.
    """
    pool = _Pool(model_of(result))
    requests = {id(each.data): each for each in requests_of(result.trace)}
    calls = _Calls()
    events = []
    for span, data in records_of(_in_time(result.trace)):
        request = requests.get(id(data))
        if request is not None:
            calls.request(request.answer)
            events.append(_timed(span, start_s) | _model_event(request, pool))
        elif "tool_name" in data:
            events.append(_timed(span, start_s) | _tool_event(span, data, calls))
        elif span.get("id") != span.get("parent_id"):
            events.append(_timed(span, start_s) | _info_event(data))
    return events, pool.messages


def _in_time(trace: Iterable[Any]) -> list[Any]:
    """Spans sorted by their beginning, because they are recorded when they end."""
    return sorted(filter(lambda it: isinstance(it, dict), trace), key=_begun)


def _begun(span: Mapping[str, Any]) -> float:
    moment = span.get("timestamp")
    is_one = isinstance(moment, (int, float)) and math.isfinite(moment)
    return float(moment) if is_one and 0 <= moment < _MAX_TIME_S else 0.0  # type: ignore[operator,arg-type]  # ``is_one`` says so


def _took(span: Mapping[str, Any]) -> float:
    took = span.get("running_time")
    return float(took) if isinstance(took, (int, float)) and 0 <= took < _MAX_TIME_S else 0.0


def _timed(span: Mapping[str, Any], start_s: float | None) -> Json:
    begun, took = _begun(span), _took(span)
    return {
        "timestamp": _iso(begun),
        "working_start": max(0.0, begun - start_s) if start_s is not None else 0.0,
        "completed": _iso(min(begun + took, _MAX_TIME_S)),
        "working_time": took,
    }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _model_event(request: ModelRequest, pool: _Pool) -> Json:
    data, model = request.data, model_in(request.data)
    usage = data.get("usage")
    event: Json = {
        "event": "model",
        "model": model,
        "input": [],
        "input_refs": pool.ranges(request.messages),
        "tools": [],
        "tool_choice": "auto",
        "config": {},
        "output": {"model": model, "choices": []},
    }
    if request.answer:
        message = message_of(request.answer, model)
        event["output"] = output_of(message, model, data.get("finish_reason"))
    if isinstance(usage, dict):
        event["output"]["usage"] = usage_of(usage)
    return {**event, "error": str(data["error"])} if data.get("error") else event


class _Calls:
    """Tool calls that the model requested and that no span has matched yet."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []

    def request(self, answer: Mapping[str, Any] | None) -> None:
        """Add the calls in a response."""
        for call in (answer or {}).get("tool_calls", ()):
            self._open.append((str(call["id"]), call["function"]["name"]))

    def take(self, tool: str, otherwise: str) -> str:
        """The id of the oldest call of a tool; the model may use a longer name for the tool."""
        for number, (call_id, name) in enumerate(self._open):
            if name == tool or name.endswith(f"__{tool}"):
                del self._open[number]
                return call_id
        return otherwise


def _tool_event(span: Mapping[str, Any], data: Mapping[str, Any], calls: _Calls) -> Json:
    tool, arguments = str(data["tool_name"]), data.get("arguments")
    event: Json = {
        "event": "tool",
        "type": "function",
        "id": calls.take(tool, str(span.get("id", ""))),
        "function": tool,
        "arguments": arguments if isinstance(arguments, dict) else {"arguments": arguments},
        "result": text_of(data.get("response")) or "",
        "events": [],
    }
    if data.get("error"):
        event["error"] = {"type": "unknown", "message": str(data["error"])}
        event["failed"] = True
    return event


def _info_event(data: Mapping[str, Any]) -> Json:
    """An event for a custom span of the agent."""
    return {"event": "info", "source": str(data.get("type", "agent")), "data": dict(data)}
