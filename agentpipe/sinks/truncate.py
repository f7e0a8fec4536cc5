"""Fit: a Result cut to the size that a sink can take, with a mark that says so.

A sink that refuses a record refuses it for ever, and everything behind it waits. A run that
was paid for is worth more than its whole trace, so the trace is cut first.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.task import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.sinks.base import Record

# For the mark itself, commas and brackets.
MARK_BYTES = 1_024
# What is given up after the trace, in this order, and what stands in its place.
EMPTIED: tuple[tuple[str, Any], ...] = (
    ("evaluation_results", []),
    ("error", None),
    ("result", None),
    ("metadata", {}),
    ("usage", {}),
)


def truncate(record: Record, max_bytes: int, remedy: str) -> bytes:
    """The record's payload, cut to ``max_bytes`` if it is larger.

    The Result then says in ``truncated`` how large it was (``bytes``), which fields were cut
    (``fields``), how many spans the trace had (``spans``), and the ``remedy``.
    """
    if len(record.payload) <= max_bytes:
        return record.payload
    result = _parsed(record)
    mark: dict[str, Any] = {
        "bytes": len(record.payload),
        "fields": ["trace"],
        "spans": len(result["trace"]),
        "remedy": remedy,
    }
    result["truncated"] = mark
    trace, result["trace"] = result["trace"], []
    rest_bytes = len(orjson.dumps(result)) + MARK_BYTES
    result["trace"] = _ends(trace, max_bytes - rest_bytes)
    for name, empty in EMPTIED:
        if len(encoded := orjson.dumps(result)) <= max_bytes:
            return encoded
        if result.get(name):
            mark["fields"].append(name)
            over = len(encoded) - max_bytes + MARK_BYTES
            result[name] = _head(result[name], over) if name == "result" else empty
    return orjson.dumps(result)


def _parsed(record: Record) -> dict[str, Any]:
    try:
        result = orjson.loads(record.payload)
    except orjson.JSONDecodeError:
        result = None
    if isinstance(result, dict) and isinstance(result.get("trace"), list):
        return result
    # Nothing of ours; what remains is that its task has ended.
    return Result(task_id=record.task_id, outcome="infra_error").to_dict()


def _ends(trace: Sequence[Any], max_bytes: int) -> list[Any]:
    """The first spans and the last ones: how a run began, and how it ended."""
    sizes = [len(orjson.dumps(span)) + 1 for span in trace]
    first = sum(total <= max_bytes // 2 for total in accumulate(sizes))
    left = max_bytes - sum(sizes[:first])
    last = sum(total <= left for total in accumulate(reversed(sizes[first:])))
    return [*trace[:first], *trace[len(trace) - last :]]


def _head(answer: Any, over_bytes: int) -> str | None:
    """The beginning of an answer that is text; part of any other JSON would be another answer."""
    if not isinstance(answer, str):
        return None
    # A character takes six bytes of JSON at the most, so that this is never too little.
    keep = len(answer) - over_bytes
    return answer[:keep] if keep > 0 else None
