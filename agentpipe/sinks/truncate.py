"""truncate: cuts a Result to a sink's size limit, and marks it.

A sink that refuses a record refuses it for ever, and blocks everything behind it. The answer of a
paid run is worth more than its whole trace, so the trace is cut first.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.result import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.sinks.base import Record

# For the mark itself, commas and brackets.
MARK_BYTES = 1_024
# Fields to drop after the trace, in this order, and their replacements.
EMPTIED: tuple[tuple[str, Any], ...] = (
    ("evaluation_results", []),
    ("error", None),
    ("result", None),
    ("metadata", {}),
    ("usage", {}),
)


def truncate(record: Record, max_bytes: int, remedy: str) -> bytes:
    """The record's payload, cut to ``max_bytes``.

    A cut Result has ``truncated``: its original size (``bytes``), the cut ``fields``, the number
    of ``spans`` its trace had, and the ``remedy``.
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
    # Not a Result of ours; all that is known is that the task ended.
    return Result(task_id=record.task_id, outcome="infra_error").to_dict()


def _ends(trace: Sequence[Any], max_bytes: int) -> list[Any]:
    """The first and the last spans: how a run began and ended."""
    sizes = [len(orjson.dumps(span)) + 1 for span in trace]
    first = sum(total <= max_bytes // 2 for total in accumulate(sizes))
    left = max_bytes - sum(sizes[:first])
    last = sum(total <= left for total in accumulate(reversed(sizes[first:])))
    return [*trace[:first], *trace[len(trace) - last :]]


def _head(answer: Any, over_bytes: int) -> str | None:
    """The beginning of a string; a part of any other JSON value would be another answer."""
    if not isinstance(answer, str):
        return None
    # A character takes at least one byte, so this removes enough.
    keep = len(answer) - over_bytes
    return answer[:keep] if keep > 0 else None
