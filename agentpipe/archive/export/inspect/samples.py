"""Samples: a result as one sample of the log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentpipe.archive.export.columns import moment_of, number_of
from agentpipe.archive.export.conversation import answer_text, conversation_of, question_of
from agentpipe.archive.export.inspect.events import events_of, model_of
from agentpipe.archive.export.inspect.messages import (
    Json,
    message_of,
    messages_of,
    output_of,
    usage_of,
)
from agentpipe.core.text import one_line

if TYPE_CHECKING:
    from agentpipe.archive.export.inspect.places import SamplePlace
    from agentpipe.core.result import Result

REWARD = "reward"
THIN_CHARS = 1_000
_CARRIED = (
    *("task_id", "run", "collection", "agent", "attempt", "outcome", "stop", "policy_version"),
    *("seed", "replay_of", "retry_of", "rescored_of", "config_hash", "truncated"),
)
# Phrases in a limit's message, first match wins, and inspect_ai's type for the limit.
_LIMITS = {"time limit": "time", "token": "token", "context window": "context", "requests": "turn"}
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_IN_SUMMARY = (
    *("id", "epoch", "input", "target", "scores", "metadata", "model_usage", "uuid"),
    *("started_at", "completed_at", "total_time", "working_time"),
)


def sample_of(result: Result, place: SamplePlace) -> Json:
    """The complete sample."""
    model, started = model_of(result), moment_of(result.started_at)
    events, pooled = events_of(result, started.timestamp() if started else None)
    conversation, answer = conversation_of(result), answer_text(result)
    messages = messages_of(conversation.messages, model) if conversation else []
    sample: Json = {
        "id": place.sample_id,
        "epoch": place.epoch,
        "input": question_of(result) or "",
        "target": target_of(result),
        "messages": messages,
        "scores": scores_of(result),
        "metadata": metadata_of(result),
        "events": events,
        "events_data": {"messages": pooled, "calls": []},
        "model_usage": {model: usage_of(result.usage)} if result.usage else {},
        "uuid": result.task_id,
        **_times(result),
        **_end(result),
    }
    if answer:
        said = message_of({"role": "assistant", "content": answer}, model)
        sample["output"] = output_of(said, model, result.stop)
    return sample


def target_of(result: Result) -> str:
    """What the answer was compared with, if a single evaluator compared it with a string or number.

    In inspect_ai several targets mean that any of them is right, unlike several evaluators.
    """
    configs = [each.get("config") for each in _evaluations(result)]
    values = [each["value"] for each in configs if isinstance(each, dict) and "value" in each]
    if len(configs) == 1 and values and isinstance(values[0], (str, int, float)):
        return str(values[0])
    return ""


def scores_of(result: Result) -> Json | None:
    """The reward and the rewards of named evaluators; None if nothing was judged."""
    reward = number_of(result.reward)
    if reward is None:
        return None
    reasons = (each.get("reason") for each in _evaluations(result))
    whole = {
        "value": reward,
        "answer": answer_text(result),
        "explanation": "; ".join(str(reason) for reason in reasons if reason),
    }
    numbers = {name: number_of(value) for name, value in result.rewards.items()}
    named = {name: {"value": value} for name, value in numbers.items() if value is not None}
    return {**named, REWARD: whole}


def _evaluations(result: Result) -> list[dict[str, Any]]:
    """The evaluations that are objects: others may have written the record."""
    found: list[Any] = result.evaluation_results
    return [each for each in found if isinstance(each, dict)]


def metadata_of(result: Result) -> Json:
    """The task's own metadata, and agentpipe's fields under one key."""
    carried = {name: getattr(result, name) for name in _CARRIED}
    ours = {name: value for name, value in carried.items() if value is not None}
    return {**result.metadata, "agentpipe": ours}


def _times(result: Result) -> Json:
    started, finished = moment_of(result.started_at), moment_of(result.finished_at)
    times: Json = {}
    if started:
        times["started_at"] = started.isoformat()
    if finished:
        times["completed_at"] = finished.isoformat()
    if started and finished:
        took = max(0.0, (finished - started).total_seconds())
        times |= {"total_time": took, "working_time": took}
    return times


def _end(result: Result) -> Json:
    """Why the sample has no answer: a limit or an error; empty if it ended well."""
    error = result.error or {}
    message = f"{error.get('type')}: {error.get('message')}" if error else result.outcome
    if result.outcome == "limit":
        return {"limit": _limit(str(error.get("message", "")))}
    if result.outcome == "ok" and not error:
        return {}
    traceback = str(error.get("traceback") or "")
    said = f"{result.outcome}: {message}" if error else message
    return {"error": {"message": said, "traceback": traceback, "traceback_ansi": traceback}}


def _limit(message: str) -> Json:
    kind = next((kind for word, kind in _LIMITS.items() if word in message), "custom")
    number = _NUMBER.search(message)
    limit = float(number[0].replace(",", "")) if number else 0.0
    return {"type": kind, "limit": limit, "reason": message}


def summary_of(sample: Json) -> Json:
    """The sample's entry in lists, with long texts cut."""
    summary = {name: sample[name] for name in _IN_SUMMARY if name in sample}
    summary |= {
        "input": _thin(sample["input"]),
        "target": _thin(sample["target"]),
        "metadata": {name: _thin(value) for name, value in sample["metadata"].items()},
        "completed": True,
        "message_count": len(sample["messages"]),
    }
    if scores := sample["scores"]:
        summary["scores"] = {
            name: {key: _thin(value) for key, value in score.items()}
            for name, score in scores.items()
        }
    if "error" in sample:
        summary["error"] = _thin(sample["error"]["message"])
    if "limit" in sample:
        summary |= {"limit": sample["limit"]["type"], "limit_reason": sample["limit"]["reason"]}
    return summary


def _thin(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= THIN_CHARS else one_line(value, THIN_CHARS)
    return value
