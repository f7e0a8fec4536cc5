"""Task: the page of a Result: question, answer, verdicts, and the trace as steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.archive.export.conversation import question_of
from agentpipe.core.transcript import Conversations
from agentpipe.show.card import draw_error, draw_messages, draw_verdict, facts_of
from agentpipe.show.page import as_text
from agentpipe.show.steps import draw_step, title_of
from agentpipe.show.timeline import nodes, total_s
from agentpipe.web.blocks import Blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.core.result import Result
    from agentpipe.show.timeline import Node
    from agentpipe.web.blocks import Block

MOST_SPANS = 1_000
# Limits for one text, and for all texts of a page; beyond that each keeps ``LEAST_CHARS``.
MAX_SPAN_CHARS, MAX_PAGE_CHARS, LEAST_CHARS = 4_000, 2_000_000, 200
_KINDS = ("llm", "tool", "agent")
_LEAST_WIDTH = 0.4


@dataclass(frozen=True, slots=True)
class Shown:
    """A block whose text is cut to the page's limits."""

    block: Block
    text: str

    @property
    def is_cut(self) -> bool:
        """Whether the text is cut."""
        return len(self.text) < len(self.block.text)


@dataclass(frozen=True, slots=True)
class Step:
    """A span as a row; ``x`` and ``width`` are in per cent of the whole duration.

    Attributes:
        place: Its index in the trace, by which its raw text is found.
    """

    place: int
    depth: int
    title: str
    kind: str
    facts: str
    at_s: float
    took_s: float
    x: float
    width: float
    failed: bool
    parts: tuple[Shown, ...]


def values_of(result: Result) -> dict[str, Any]:
    """The values that both views of a task's page use."""
    verdicts, error = Blocks(), Blocks()
    for verdict in result.evaluation_results:
        draw_verdict(verdicts, verdict)
    if result.error:
        draw_error(error, result.error)
    room = _Room()
    return {
        "result": result,
        "facts": facts_of(result),
        "question": question_of(result) or "",
        "answer": None if result.result is None else as_text(result.result, wide=True),
        "verdicts": room.cut(verdicts),
        "error": room.cut(error),
    }


def conversation(result: Result) -> tuple[Shown, ...]:
    """The messages to and from models."""
    blocks = Blocks()
    draw_messages(blocks, result)
    return _Room().cut(blocks)


def steps(result: Result) -> tuple[list[Step], float, int]:
    """The trace's spans, their whole duration in seconds, and how many are left out."""
    tree = nodes(result.trace)
    whole_s = total_s(tree)
    places = {id(span): place for place, span in enumerate(result.trace)}
    conversations, room = Conversations(), _Room()
    found = [
        _step(node, places.get(id(node.span), 0), whole_s, conversations, room)
        for node in tree[:MOST_SPANS]
    ]
    return found, whole_s, len(tree) - len(found)


def _step(
    node: Node, place: int, whole_s: float, conversations: Conversations, room: _Room
) -> Step:
    (title, _), facts = title_of(node)
    is_run = node.span.get("id") == node.span.get("parent_id") and node.kind == "agent"
    blocks = Blocks()
    draw_step(blocks, node, conversations, names_only=is_run)
    scale = 100 / whole_s if whole_s else 0.0
    kind = title.partition(" ")[0]
    return Step(
        place,
        node.depth,
        title,
        kind if kind in _KINDS else "other",
        facts,
        node.at_s,
        node.took_s,
        min(100 - _LEAST_WIDTH, round(node.at_s * scale, 2)),
        max(_LEAST_WIDTH, round(node.took_s * scale, 2)),
        any(data.get("error") for data in node.records),
        room.cut(blocks),
    )


class _Room:
    """How many characters of text a page can still take."""

    def __init__(self) -> None:
        self._left = MAX_PAGE_CHARS

    def cut(self, blocks: Blocks) -> tuple[Shown, ...]:
        return tuple(Shown(block, self._cut(block.text)) for block in blocks)

    def _cut(self, text: str) -> str:
        shown = text[: max(LEAST_CHARS, min(MAX_SPAN_CHARS, self._left))]
        self._left -= len(shown)
        return shown


def raw(result: Result, part: str) -> str | None:
    """A raw part: ``question``, ``answer``, ``error``, a span's number, ...; None if it is absent.

    An empty ``part`` is the whole Result. Strings stay as they are; other values become JSON.
    """
    parts: dict[str, Any] = {
        "question": question_of(result),
        "answer": result.result,
        "error": result.error,
        "verdicts": result.evaluation_results,
        "trace": result.trace,
        "": result.to_dict(),
    }
    value = parts[part] if part in parts else _span(result.trace, part)
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _span(trace: Sequence[Any], part: str) -> Any:
    is_place = part.isascii() and part.isdigit() and len(part) < 10  # noqa: PLR2004 - digits
    return trace[int(part)] if is_place and int(part) < len(trace) else None
