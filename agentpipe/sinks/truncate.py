"""truncate: cuts a Result to a sink's size limit, and marks it.

A sink that refuses a record would refuse it on every retry. The largest field is cut first, so a
small answer does not suffer for a large neighbour. If the answer is the largest, everything that
explains it is cut before its end: the answer of a paid run is worth more than its whole trace.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.groups import is_group_record
from agentpipe.core.result import Result
from agentpipe.core.rollout import without_segments

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agentpipe.sinks.base import Record

# Reserved for the mark itself, commas and brackets.
MARK_BYTES = 1_024
# Cut before an answer that is larger, in this order.
FIRST = ("trace", "evaluation_results", "error", "rollout", "result")
# Fields that accompany an answer and that a trainer does not ask for.
SIDE_FIELDS = ("trace", "evaluation_results", "usage", "usage_total")
KEPT = frozenset({"schema", "task_id", "outcome", "truncated"})
# Shorter values (numbers, times, names) are not worth cutting.
WORTH_BYTES = 64
_EMPTY = Result().to_dict()


def truncate(record: Record, max_bytes: int, remedy: str) -> bytes:
    """The record's payload, cut to ``max_bytes`` by ``cut``. The record of a group stays whole."""
    if len(record.payload) <= max_bytes or is_group_record(record.payload):
        return record.payload
    return cut(record, max_bytes, remedy)


def cut(
    record: Record, max_bytes: int, remedy: str, *, reason: str = "", drop: Sequence[str] = ()
) -> bytes:
    """Remove ``drop`` from a record's payload and cut it to ``max_bytes``, as far as possible.

    A cut Result has ``truncated``: its original size (``bytes``), the cut ``fields``, the number of
    ``spans`` in its trace, the ``remedy``, and the ``reason`` if it is not the size. For a Result
    that was cut before, "original" means before the first cut.
    """
    result = _parsed(record)
    mark = {
        "bytes": len(record.payload),
        "fields": [],
        "spans": len(result["trace"]),
        "remedy": remedy,
        **({"reason": reason} if reason else {}),
        **_mark_of(result),
    }
    result["truncated"], done = mark, {name for name in drop if result.get(name)}
    result |= {name: _EMPTY[name] for name in done}
    mark["fields"] = list(dict.fromkeys([*mark["fields"], *sorted(done)]))
    while (over := len(encoded := orjson.dumps(result)) - max_bytes) > 0:
        name = _next(result, max_bytes, done)
        if name is None:
            break
        done.add(name)
        mark["fields"] = list(dict.fromkeys([*mark["fields"], name]))
        result[name] = _smaller(name, result[name], over + MARK_BYTES)
    return encoded


def _parsed(record: Record) -> dict[str, Any]:
    try:
        result = orjson.loads(record.payload)
    except orjson.JSONDecodeError:
        result = None
    if isinstance(result, dict) and isinstance(result.get("trace"), list):
        return result
    # Not one of our Results; we know only that the task ended.
    return Result(task_id=record.task_id, outcome="infra_error").to_dict()


def _mark_of(result: dict[str, Any]) -> dict[str, Any]:
    """What an earlier cut recorded about the original."""
    before = result.get("truncated")
    if not isinstance(before, dict) or not isinstance(before.get("fields"), list):
        return {}
    return {name: before[name] for name in ("bytes", "fields", "spans") if name in before}


def _next(result: dict[str, Any], max_bytes: int, done: Collection[str]) -> str | None:
    """The field to cut; None if nothing is left."""
    sizes = {name: len(orjson.dumps(value)) for name, value in result.items() if value}
    fixed = KEPT.union(done)
    sizes = {n: size for n, size in sizes.items() if n not in fixed and size > WORTH_BYTES}
    others = [name for name in sizes if name != "result"]
    if "rollout" in others and "trace" in sizes:
        others.remove("rollout")  # A trainer does not need the trace.
    largest = max(others, key=lambda name: sizes[name], default=None)
    if largest is not None and sizes[largest] > min(max_bytes // 2, sizes.get("result", 0)):
        return largest
    return next((name for name in FIRST if name in sizes), largest)


def _smaller(name: str, value: Any, over_bytes: int) -> Any:
    if name == "trace":
        return _ends(value, len(orjson.dumps(value)) - over_bytes)
    if name == "task":
        return _without_largest(value, over_bytes)
    if name == "rollout":
        return without_segments(value)
    return _head(value, over_bytes) if name == "result" else _EMPTY.get(name)


def _without_largest(task: dict[str, Any], over_bytes: int) -> dict[str, Any]:
    """The task without its largest fields; of a string, the beginning stays."""
    kept = dict(task)
    while over_bytes > 0 and kept:
        name = max(kept, key=lambda each: len(orjson.dumps(kept[each])))
        before = len(orjson.dumps(kept[name]))
        head = _head(kept.pop(name), over_bytes)
        if head is not None:
            kept[name] = head
        over_bytes -= before - (len(orjson.dumps(head)) if head is not None else 0)
    return kept


def _ends(trace: Sequence[Any], max_bytes: int) -> list[Any]:
    """The first and the last spans: how a run began and ended."""
    sizes = [len(orjson.dumps(span)) + 1 for span in trace]
    first = sum(total <= max_bytes // 2 for total in accumulate(sizes))
    left = max_bytes - sum(sizes[:first])
    last = sum(total <= left for total in accumulate(reversed(sizes[first:])))
    return [*trace[:first], *trace[len(trace) - last :]]


def _head(answer: Any, over_bytes: int) -> str | None:
    """The beginning of a string; a part of any other JSON value would be a different answer."""
    if not isinstance(answer, str):
        return None
    # A character takes at least one byte, so this removes enough.
    keep = len(answer) - over_bytes
    return answer[:keep] if keep > 0 else None
