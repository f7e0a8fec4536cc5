"""Results as workers write them, with what makes exports hard."""

from __future__ import annotations

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.sinks.base import Record

BASE = 1_767_225_600.0
HARD = 'NUL \0, quote ", comma, line\r\nbreak, =1+1, 你好 🙂 \u202e'


def ok(number: int, answer: object = "4") -> Result:
    """Sample 0 of a task of the run v2."""
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
    """One of a type of the agent's own."""
    record = {"timestamp": BASE, "data": {"type": "own", "response": response}}
    return {"id": "s", "parent_id": "s", "records": [record], "timestamp": BASE}


def failed(number: int) -> Result:
    """One without an answer."""
    error = {"type": "ValueError", "message": HARD, "traceback": None}
    return Result(
        task_id=f"v2/p{number}/0", run="v2", outcome="agent_error", error=error, policy_version="b"
    )


RESULTS = (ok(1), ok(2, {"sum": 4}), ok(3, HARD), failed(4), ok(5, "x" * 10_000_000))


def records(*results: Result) -> list[Record]:
    """As a sink takes them."""
    return [Record(each.task_id, each.encode(Redactor([]))) for each in results]
