"""A dead letter as text of at most 80 columns; control characters are escaped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.caps import MAX_JSON_DEPTH
from agentpipe.core.outside import is_deep, json_text, read_shallow_json
from agentpipe.core.text import duration, one_line, printable
from agentpipe.core.timestamps import utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.brokers.dead_letter import DeadLetter

WIDTH = 80
LABEL = 10
# Limits for long parts; `--json` prints them in full.
MAX_LINES = 24
LAST_SPANS = 8


def as_lines(letter: DeadLetter) -> list[str]:
    """The dead letter in sections, the error before the task."""
    task, result = readable(letter.payload), readable(letter.result)
    result = result if isinstance(result, dict) else {}
    return [
        *_field("task", letter.task_id),
        *_field("agent", f"{letter.queue} of {letter.collection}"),
        *_field("outcome", f"{letter.outcome}, attempt {result.get('attempt', '?')}"),
        *_field("died", f"{utc(letter.died_at)}, {age(letter.died_at)} ago"),
        *_field("worker", result.get("worker")),
        *_field("submitted", result.get("submitted_at")),
        *_field("started", result.get("started_at")),
        *_field("error", letter.reason),
        *_block("traceback", (result.get("error") or {}).get("traceback"), keep_end=True),
        *(
            _question(task)
            if letter.payload
            else _block("answer", result.get("result"), keep_end=False)
        ),
        *_trace(result.get("trace")),
    ]


def readable(data: bytes) -> Any:
    """Decoded JSON, with a note in place of parts nested too deep; other bytes as escaped text."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data[:2_000].decode(errors="backslashreplace")
    return read_shallow_json(data) if is_deep(data, value, MAX_JSON_DEPTH) else value


def age(moment: float) -> str:
    """The time since ``moment``, in Unix seconds, as text."""
    return duration(time.time() - moment)


def _field(name: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    lines = _wrapped(str(value).split("\n"), WIDTH - LABEL)
    for number, line in enumerate(_shortened(list(lines), keep_end=False)):
        yield f"{'' if number else name:<{LABEL}}{line}"


def _block(name: str, value: Any, *, keep_end: bool) -> Iterator[str]:
    """The heading ``name`` with the value's lines below it."""
    if not value:
        return
    yield name
    lines = _wrapped(str(value).rstrip("\n").split("\n"), WIDTH - 2)
    for line in _shortened(list(lines), keep_end=keep_end):
        yield f"  {line}"


def _question(task: Any) -> Iterator[str]:
    if isinstance(task, dict) and isinstance(task.get("question"), str):
        rest = {name: value for name, value in task.items() if name not in ("schema", "question")}
        yield from _block("question", task["question"], keep_end=False)
        yield from _block("sent with", json_text(rest) if rest else None, keep_end=False)
    else:
        yield from _block("sent", json_text(task), keep_end=False)


def _trace(spans: Any) -> Iterator[str]:
    spans = [span for span in spans or () if isinstance(span, dict)]
    if not spans:
        return
    last = spans[-LAST_SPANS:]
    yield "trace" if len(last) == len(spans) else f"trace, the last {len(last)} of {len(spans)}"
    for span in last:
        yield f"  {one_line(_span(span), WIDTH - 2)}"


def _span(span: dict[str, Any]) -> str:
    """The span's duration and title, then its last error, response or tool calls."""
    records = span.get("records") or [{}]
    data = records[-1].get("data") or {}
    took_s = span.get("running_time") or 0.0
    names = (data.get(name) for name in ("type", "tool_name", "name"))
    title = " ".join(str(name) for name in names if name)
    said = (data.get(name) for name in ("error", "response", "tool_calls"))
    output = next(filter(None, said), None) or data
    return f"{took_s:8.3f} s  {title}: {json_text(output)}"


def _wrapped(lines: Iterable[str], width: int) -> Iterator[str]:
    """Break lines at the width, not at spaces: the lines can be code."""
    for line in lines:
        shown = printable(line.expandtabs(4))
        for first in range(0, max(1, len(shown)), width):
            yield shown[first : first + width]


def _shortened(lines: list[str], *, keep_end: bool) -> list[str]:
    left = len(lines) - MAX_LINES
    if left <= 0:
        return lines
    note = f"... {left} more lines: see --json"
    return [note, *lines[-MAX_LINES:]] if keep_end else [*lines[:MAX_LINES], note]
