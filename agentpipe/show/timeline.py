"""The spans of a trace as a tree; tolerates malformed spans."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.numbers import is_number
from agentpipe.core.transcript import records_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# Deeper spans are drawn at this depth.
MAX_DEPTH = 12
# In seconds; a larger number is not a valid time.
MAX_S = 1e12


@dataclass(frozen=True, slots=True)
class Node:
    """A span and its place in the tree.

    Attributes:
        depth: 0 for a span without a parent.
        at_s: Seconds after the beginning of the trace.
        records: The data of the span's records.
    """

    span: dict[str, Any]
    depth: int
    at_s: float
    took_s: float
    records: tuple[dict[str, Any], ...]

    @property
    def kind(self) -> str:
        """The type in its first record; empty if it has none."""
        kind = self.records[0].get("type") if self.records else None
        return kind if isinstance(kind, str) else ""


def nodes(trace: Sequence[Any]) -> list[Node]:
    """Parents before children, siblings by time; each span once, even with cycles."""
    spans = [span for span in trace if isinstance(span, dict)]
    begun = min(filter(None, map(begun_at, spans)), default=0.0)
    return [node_of(spans[place], depth, begun) for place, depth in _in_order(spans)]


def total_s(tree: Sequence[Node]) -> float:
    """Seconds from the beginning of the first span to the end of the last."""
    return max((node.at_s + node.took_s for node in tree), default=0.0)


def bar(at_s: float, took_s: float, whole_s: float, width: int) -> str:
    """The span's time within the whole, as a bar of at least one cell."""
    if whole_s <= 0:
        return " " * width
    first = min(width - 1, int(width * at_s / whole_s))
    cells = min(width - first, max(1, round(width * took_s / whole_s)))
    return " " * first + "█" * cells + " " * (width - first - cells)


def begun_at(span: dict[str, Any]) -> float:
    """The start in Unix seconds; 0 if the span has no valid time."""
    return _number(span.get("timestamp"))


def _in_order(spans: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Positions in the list, with their depths."""
    places = {key: place for place, span in enumerate(spans) if (key := _key(span.get("id")))}
    children: dict[int | None, list[int]] = defaultdict(list)
    for place, span in enumerate(spans):
        parent = places.get(_key(span.get("parent_id")))
        children[None if parent == place else parent].append(place)
    ordered: dict[int, int] = {}
    _walk(spans, children, None, ordered)
    for place in range(len(spans)):  # Spans in a cycle have no root.
        if place not in ordered:
            ordered[place] = 0
            _walk(spans, children, place, ordered)
    return list(ordered.items())


def _walk(
    spans: Sequence[dict[str, Any]],
    children: dict[int | None, list[int]],
    top: int | None,
    ordered: dict[int, int],
) -> None:
    """Add all spans below ``top``; not recursive, because traces can nest arbitrarily deep."""
    depth = 0 if top is None else 1
    waiting = [(place, depth) for place in _by_time(spans, children[top])]
    while waiting:
        place, depth = waiting.pop()
        if place in ordered:
            continue
        ordered[place] = min(depth, MAX_DEPTH)
        waiting += [(child, depth + 1) for child in _by_time(spans, children[place])]


def _by_time(spans: Sequence[dict[str, Any]], places: list[int]) -> list[int]:
    """Latest first, because they are popped from the end."""
    return sorted(places, key=lambda place: (begun_at(spans[place]), place), reverse=True)


def node_of(span: dict[str, Any], depth: int, begun: float) -> Node:
    """The node of a span in a trace that began at ``begun``, in Unix seconds."""
    at_s = max(0.0, begun_at(span) - begun) if begun_at(span) else 0.0
    records = tuple(data for _, data in records_of([span]))
    return Node(span, depth, at_s, _number(span.get("running_time")), records)


def _key(value: Any) -> str:
    return str(value) if isinstance(value, (str, int)) else ""


def _number(value: Any) -> float:
    """A time or duration that can be drawn, else 0."""
    return float(value) if is_number(value) and math.isfinite(value) and 0 < value < MAX_S else 0.0
