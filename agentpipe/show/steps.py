"""Draws one span of a trace: a model request, a tool call, or anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentpipe.core.span_names import span_name
from agentpipe.core.text import counted
from agentpipe.show.page import as_text

if TYPE_CHECKING:
    from agentpipe.core.transcript import Conversations, ModelRequest
    from agentpipe.show.page import Page
    from agentpipe.show.timeline import Node

_STYLES = {"llm": "cyan", "tool": "magenta", "agent": "blue"}
_WORDS = {"input_tokens": "in", "output_tokens": "out", "cached_tokens": "cached"}
# Drawn under their own names, not among a record's other fields.
_NAMED = frozenset(
    ("type", "class", "name", "tool_name", "server", "response", "error", "messages")
)
LINES_OF_ONE = 8


def title_of(node: Node) -> tuple[tuple[str, str], str]:
    """The span's name with a style, and the facts to show after it."""
    data = node.records[0] if node.records else {}
    kind, name = span_name(data)
    return (f"{kind} {name}".rstrip(), _STYLES.get(kind, "")), ", ".join(_facts(data))


def _facts(data: Mapping[str, Any]) -> list[str]:
    facts = []
    usage = data.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    for name, word in _WORDS.items():
        number = counts.get(name)
        if isinstance(number, int) and number:
            facts.append(f"{number:,} {word}")
    if isinstance(reason := data.get("finish_reason"), str):
        facts.append(reason)
    if isinstance(tools := data.get("tools"), list):
        facts.append(f"{counted(len(tools), 'tool')} known")
    return facts


def draw_step(page: Page, node: Node, conversations: Conversations, *, names_only: bool) -> None:
    """Draw the records of a span, below its title.

    With ``names_only`` question and answer are left out, because the page shows them elsewhere.
    """
    for data in node.records:
        if "dropped" in data:
            page.line((f"left out: {as_text(data['dropped'])}", "yellow"))
        elif data.get("type") == "llm":
            _draw_request(page, conversations.add(node.span, data))
        elif not names_only:
            _draw_record(page, data)
        if error := data.get("error"):
            page.block(as_text(error), "error ", "red", LINES_OF_ONE)


def _draw_request(page: Page, request: ModelRequest) -> None:
    for message in request.new:
        # The span of the tool call already shows the tool's answer.
        draw_message(page, message, 2 if message.get("role") == "tool" else LINES_OF_ONE)
    if request.answer:
        draw_message(page, request.answer)


def draw_message(page: Page, message: Mapping[str, Any], most: int = LINES_OF_ONE) -> None:
    """Draw a message: its role, its text, and the tools it calls."""
    role = _text(message.get("role")) or "?"
    content = message.get("content")
    if content not in (None, "", []):
        page.block(content_text(content), f"{role[:9]:<9} ", most=most)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        page.block(_called(call), f"{'calls':<9} ", most=most)


def content_text(content: Any) -> str:
    """A message's content; for parts, their texts, or the type of a part without text."""
    if not isinstance(content, list):
        return as_text(content)
    return "\n".join(map(_part, content))


def _part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    return f"[{kind}]" if isinstance(kind, str) and kind != "tool_result" else as_text(part)


def _called(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    inner = function if isinstance(function, Mapping) else call
    if not isinstance(inner, Mapping):
        return as_text(call)
    return f"{as_text(inner.get('name', ''))}({as_text(inner.get('arguments', ''))})"


def _draw_record(page: Page, data: Mapping[str, Any]) -> None:
    others = {name: value for name, value in data.items() if name not in _NAMED}
    arguments = others.pop("arguments", None)
    if arguments not in (None, {}, ""):
        page.block(as_text(arguments), "arguments ", most=LINES_OF_ONE)
    messages = data.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            draw_message(page, message)
        else:
            page.block(as_text(message), f"{'asked':<9} ", most=LINES_OF_ONE)
    if others:
        page.block(as_text(others), f"{'data':<9} ", most=LINES_OF_ONE)
    if (response := data.get("response")) not in (None, ""):
        page.block(as_text(response), f"{'answer':<9} ", most=LINES_OF_ONE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
