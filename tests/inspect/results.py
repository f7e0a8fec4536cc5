"""Results as workers write them, with content that is hard to export."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.sinks.base import Record

BASE = 1_767_225_600.0
QUESTION = "2 and 2?"
HARD = 'NUL \0, quote ", comma, line\r\nbreak, =1+1, 你好 🙂 \u202e'


def ok(number: int, answer: object = "4") -> Result:
    """Sample 0 of a task in the run v2."""
    return Result(
        task_id=f"v2/p{number}/0",
        run="v2",
        collection="crew",
        agent="crew_0",
        group_id=f"v2/p{number}",
        sample_index=0,
        group_size=1,
        attempt=1,
        stop="stop",
        reward=1.0,
        reward_trustworthy=True,
        result=answer,
        usage={"requests": 1, "input_tokens": 9, "output_tokens": 2, "usd": 0.5},
        submitted_at="2026-01-01T00:00:00.000000Z",
        started_at="2026-01-01T00:00:01.000000Z",
        finished_at="2026-01-01T00:00:02.250000Z",
        seed=2**63 - 1,
        policy_version=3,
        metadata={"level": number, "secret": "***"},
        trace=[span("text"), span(["a", {"list": 1}])],
    )


def span(response: object) -> dict[str, object]:
    """A span of an agent's own type."""
    record = {"timestamp": BASE, "data": {"type": "own", "response": response}}
    return {"id": "s", "parent_id": "s", "records": [record], "timestamp": BASE}


def failed(number: int) -> Result:
    """A Result without an answer."""
    error = {"type": "ValueError", "message": HARD, "traceback": None}
    return Result(
        task_id=f"v2/p{number}/0", run="v2", outcome="agent_error", error=error, policy_version="b"
    )


def asked(number: int, sample: int, reward: float | None = 1.0, **fields: Any) -> Result:
    """A sample answered by a model after a tool call."""
    call = {"id": "c1", "name": "math__add", "arguments": '{"a": 2}'}
    usage = {"requests": 1, "input_tokens": 10, "output_tokens": 4, "cached_tokens": 3}
    config = {"model_name": "tiny", "temperature": 0.5}
    model = {"type": "llm", "class": "openai", "config": config, "error": "", "usage": usage}
    tool = {"name": "math__add", "description": "Adds.", "parameters": {"type": "object"}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    told = {"role": "tool", "tool_call_id": "c1", "content": "4"}
    data: list[dict[str, Any]] = [
        {**model, "messages": messages, "response": "", "tool_calls": [call], "tools": [tool]},
        {"type": "tool", "tool_name": "add", "arguments": {"a": 2}, "response": "4", "error": ""},
        {**model, "messages": [told], "response": HARD, "tool_calls": [], "finish_reason": "stop"},
        {"type": "own", "note": [1, {"a": None}]},
        {"type": "agent", "messages": [QUESTION], "response": HARD},
    ]
    trace = [
        {
            "id": "root" if each["type"] == "agent" else f"s{at}",
            "trace_id": "t",
            "parent_id": "root",
            "records": [{"timestamp": BASE + at, "data": each}],
            "running_time": 0.5,
            "timestamp": BASE + (0 if each["type"] == "agent" else at),
            "span_index": at,
        }
        for at, each in enumerate(data)
    ]
    evaluators = [{"config": {"func": "raw", "op": "=", "value": "4"}, "reason": HARD}]
    known = {
        "group_id": f"v2/p{number}",
        "sample_index": sample,
        "group_size": 4,
        "reward": reward,
        "rewards": {} if reward is None else {"exact": reward / 2},
        "result": HARD,
        "evaluation_results": evaluators,
        "usage": {**usage, "requests": 2, "usd": 0.25},
        "trace": trace,
    }
    own = {"task_id": f"v2/p{number}/{sample}", **known, **fields}
    return replace(ok(number), **own)


RESULTS = (ok(1), ok(2, {"sum": 4}), ok(3, HARD), failed(4), ok(5, "x" * 10_000_000))


def records(*results: Result) -> list[Record]:
    """The records that a sink takes."""
    return [Record(each.task_id, each.encode(Redactor([]))) for each in results]
