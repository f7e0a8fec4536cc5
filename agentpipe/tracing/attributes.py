"""Attributes of spans, by OpenTelemetry's conventions for GenAI (v0.1.0, status Development)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentpipe.core.outside import encoded, valid_text
from agentpipe.core.usage import MAX_NUMBER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.result import Result

    Attributes = dict[str, Any]

# A collector's request limit is unknown; this much of a text is enough.
MAX_CONTENT_CHARS = 65_536
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,199}")
_KINDS = (str, bool, int, float, list)
_PROVIDERS = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
_TOKENS = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
}


def of_run(result: Result, *, content: bool) -> Attributes:
    """Attributes of a run's root span."""
    found: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent_name(result),
        "gen_ai.agent.id": result.agent,
        "agentpipe.task_id": result.task_id,
        "agentpipe.outcome": result.outcome,
        "agentpipe.attempt": result.attempt,
        "agentpipe.run": result.run,
        "agentpipe.group_id": result.group_id,
        "agentpipe.sample_index": result.sample_index,
        "agentpipe.reward": result.reward,
        "agentpipe.worker": result.worker,
        "agentpipe.cost_usd": result.usage.get("usd"),
        **_tokens(result.usage),
    }
    if result.outcome != "ok":
        found["error.type"] = _type_of(str((result.error or {}).get("type") or result.outcome))
    if content:
        question = (result.task or {}).get("question")
        found["gen_ai.input.messages"] = _messages("user", question)
        found["gen_ai.output.messages"] = _messages("assistant", result.result)
    return _known(found)


def agent_name(result: Result) -> str:
    """The collection's name, as its agents are copies of one."""
    return result.collection or result.agent or "agent"


def of_step(data: Mapping[str, Any], *, content: bool) -> tuple[str, Attributes]:
    """Name and attributes of a span below the run's, from what it recorded."""
    kind = data.get("type")
    if kind == "llm":
        return _of_request(data, content=content)
    if kind == "tool":
        return _of_tool(data, content=content)
    return str(kind or "step")[:200], {}


def _of_request(data: Mapping[str, Any], *, content: bool) -> tuple[str, Attributes]:
    config = as_object(data.get("config"))
    model = config.get("model_name") or config.get("model")
    provider = str(data.get("class") or "")
    reason = data.get("finish_reason")
    found: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider) or None,
        "gen_ai.request.model": model,
        "gen_ai.response.id": data.get("response_id"),
        "gen_ai.response.finish_reasons": [reason] if isinstance(reason, str) else None,
        "error.type": _error_type(data),
        **_tokens(as_object(data.get("usage"))),
    }
    if content:
        found["gen_ai.input.messages"] = _text(data.get("messages"))
        answer = {"response": data.get("response"), "tool_calls": data.get("tool_calls")}
        found["gen_ai.output.messages"] = _messages("assistant", *_parts(answer))
    return f"chat {model}" if isinstance(model, str) else "chat", _known(found)


def _of_tool(data: Mapping[str, Any], *, content: bool) -> tuple[str, Attributes]:
    name, server = data.get("tool_name"), data.get("server")
    found: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "error.type": _error_type(data),
    }
    if isinstance(server, str) and server:  # A tool of an MCP server.
        found |= {"mcp.method.name": "tools/call", "agentpipe.mcp.server": server}
    if content:
        found["gen_ai.tool.call.arguments"] = _text(data.get("arguments"))
        found["gen_ai.tool.call.result"] = _text(data.get("response"))
    return f"execute_tool {name}" if isinstance(name, str) else "execute_tool", _known(found)


def of_evaluation(place: int, evaluation: Mapping[str, Any], *, content: bool) -> Attributes:
    """Attributes of the event ``gen_ai.evaluation.result``."""
    config = as_object(evaluation.get("config"))
    found: Attributes = {
        "gen_ai.evaluation.name": str(config.get("name") or config.get("func") or place)[:200],
        **_verdict(evaluation),
    }
    if content:
        found["gen_ai.evaluation.explanation"] = _text(evaluation.get("reason"))
    return _known(found)


def _verdict(evaluation: Mapping[str, Any]) -> Attributes:
    """The score; none from an evaluator that broke, since that is not a wrong answer."""
    passed, score = evaluation.get("passed"), evaluation.get("score")
    if evaluation.get("error") and not passed:
        return {"error.type": "EvaluationError"}
    return {
        "gen_ai.evaluation.score.label": "pass" if passed else "fail",
        "gen_ai.evaluation.score.value": float(bool(passed)) if score is None else score,
    }


def _error_type(data: Mapping[str, Any]) -> str | None:
    """The error's type only: its message could quote the question."""
    error = data.get("error")
    return _type_of(error.partition(":")[0]) if isinstance(error, str) and error else None


def _type_of(text: str) -> str:
    """A class name, else the conventions' ``_OTHER``: the text could be a message."""
    return text if _TYPE.fullmatch(text) else "_OTHER"


def _tokens(usage: Mapping[str, Any]) -> Attributes:
    return {
        name: int(number)
        for ours, name in _TOKENS.items()
        if isinstance(number := usage.get(ours), (int, float)) and 0 <= number <= MAX_NUMBER
    }


def _parts(answer: Mapping[str, Any]) -> list[Any]:
    return [part for part in answer.values() if part]


def _messages(role: str, *contents: Any) -> str | None:
    """The conventions' format: a list of messages with parts."""
    parts = [{"type": "text", "content": _text(each)} for each in contents if each is not None]
    return _text([{"role": role, "parts": parts}]) if parts else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else encoded(value).decode(errors="replace")
    return text[:MAX_CONTENT_CHARS]


def as_object(value: Any) -> Mapping[str, Any]:
    """The value, or an empty object if it is not one: the record may not be ours."""
    return value if isinstance(value, dict) else {}


def _known(found: Attributes) -> Attributes:
    """Drop unknown values, and types that are not allowed in attributes."""
    return {name: _valid(value) for name, value in found.items() if isinstance(value, _KINDS)}


def _valid(value: Any) -> Any:
    if isinstance(value, list):
        return [_valid(each) for each in value]
    return valid_text(value) if isinstance(value, str) else value
