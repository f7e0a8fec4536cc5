"""The spans of one run, in MCP-Universe's format, and its usage.

A span is ``{id, trace_id, parent_id, records: [{timestamp, data}], running_time, timestamp,
span_index}``. Spans are listed in the order in which they end, children before parents. The root
span is its own parent (``mcpuniverse/tracer/types.py`` of 1.1.3).

An agent adds its own spans::

    with agentpipe.trace.span({"type": "tool", "tool_name": "search"}) as span:
        span.add({"response": ...})
"""

from __future__ import annotations

import logging
import math
import random
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.masking import shorten
from agentpipe.core.outside import valid_json, valid_text
from agentpipe.core.rollout import recording
from agentpipe.core.span_names import span_name
from agentpipe.core.text import counted
from agentpipe.core.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agentpipe.core.rollout import Rollout

# ReAct agents record their whole history with each step, so a trace grows quadratically.
MAX_RECORD_BYTES = 1024 * 1024
MAX_TRACE_BYTES = 16 * 1024 * 1024
MAX_ID_CHARS = 256
_CUT_TEXT_CHARS = 10_000

log = logging.getLogger(__name__)

_tracer: ContextVar[Tracer | None] = ContextVar("agentpipe_tracer", default=None)
_parent: ContextVar[Span | None] = ContextVar("agentpipe_span", default=None)


def _new_id() -> str:
    """Return an id in UUID format; it must be unique, not unpredictable."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(slots=True)
class Span:
    """A step of a run, from its start."""

    parent_id: str
    id: str = field(default_factory=_new_id)
    records: list[dict[str, Any]] = field(default_factory=list)
    timestamp: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)

    def add(self, data: Mapping[str, Any]) -> None:
        """Record ``data``, a JSON object, with the current time."""
        self.records.append({"timestamp": time.time(), "data": dict(data)})


class Tracer:
    """Collects the spans of one run.

    A record that is too large or not JSON is replaced by the reason.

    Attributes:
        spans: Ended spans, in a Result's form.
        usage: The run's totals.
        rollout: The run's token ids; None if they are not recorded.
        heard: Called with each span as it ends, in the thread that ends it.
        attempt: The task's run number, from 1.
    """

    __slots__ = (
        "_bytes",
        "_opened",
        "attempt",
        "heard",
        "rollout",
        "spans",
        "trace_id",
        "usage",
    )

    def __init__(self) -> None:
        self.heard: Callable[[dict[str, Any]], None] | None = None
        self.attempt = 1
        self.rollout: Rollout | None = None
        self.trace_id = _new_id()
        self.spans: list[dict[str, Any]] = []
        self.usage = Usage()
        self._bytes = 0
        self._opened: dict[str, Span] = {}

    @property
    def activity(self) -> str:
        """What the run is doing: its newest open span, or else the number of ended spans.

        Can be read from any thread. The text is not sanitized.
        """
        spans = list(self._opened.values())
        for span in reversed(spans):
            if span.records:
                return " ".join(span_name(span.records[0]["data"])).rstrip()
        return f"after {counted(len(self.spans), 'span')}" if self.spans else ""

    def root(self) -> _Root:
        """Open the span of the whole run; ``span`` adds children."""
        return _Root(self)

    def listening(self) -> _Listening:
        """Collect spans, usage and token ids, without a root span."""
        return _Listening(self)

    @contextmanager
    def _open(self, span: Span) -> Iterator[Span]:
        token = _parent.set(span)
        self._opened[span.id] = span
        try:
            yield span
        finally:
            self._opened.pop(span.id, None)
            _parent.reset(token)
            self._end(span)

    def _end(self, span: Span) -> None:
        took_s = time.monotonic() - span.started
        self._add(span.id, span.parent_id, span.records, took_s, span.timestamp)

    def take(self, span: Mapping[str, Any]) -> None:
        """Add an ended span, possibly from another program; missing fields are filled in."""
        parent = _parent.get()
        now = time.time()
        self._add(
            _id(span.get("id")) or _new_id(),
            _id(span.get("parent_id")) or (parent.id if parent else ""),
            _records_of(span, now),
            _seconds(span.get("running_time"), 0.0),
            _seconds(span.get("timestamp"), now),
        )

    def _add(
        self,
        span_id: str,
        parent_id: str,
        records: list[dict[str, Any]],
        running_time: float,
        timestamp: float,
    ) -> None:
        self.spans.append(
            {
                "id": span_id,
                "trace_id": self.trace_id,
                "parent_id": parent_id,
                "records": [self._limited(record) for record in records],
                "running_time": running_time,
                "timestamp": timestamp,
                "span_index": len(self.spans),
            }
        )
        if self.heard is not None:
            self.heard(self.spans[-1])

    def _limited(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            record, size = _sized(record)
            if size > MAX_RECORD_BYTES:
                record, size = _sized({**record, "data": _cut(record["data"])})
        except TypeError as error:
            return _without_data(record, f"not JSON: {error}")
        if self._bytes + size > MAX_TRACE_BYTES or size > MAX_RECORD_BYTES:
            return _without_data(record, f"too large: {size:,} bytes")
        self._bytes += size
        return record


def attempt() -> int:
    """Return the current task's run number, from 1; 1 outside a run."""
    tracer = _tracer.get()
    return 1 if tracer is None else tracer.attempt


class _Listening:
    """Not a generator, to save memory: each running agent keeps one, and thousands run."""

    __slots__ = ("_recording", "_token", "_tracer")

    def __init__(self, tracer: Tracer) -> None:
        self._tracer, self._recording = tracer, recording(tracer.rollout)

    def __enter__(self) -> Any:
        self._token = _tracer.set(self._tracer)
        self._recording.__enter__()

    def __exit__(self, *error: object) -> None:
        self._recording.__exit__(*error)
        _tracer.reset(self._token)


class _Root(_Listening):
    __slots__ = ("_outer", "_span")

    def __enter__(self) -> Span:
        super().__enter__()
        root_id = _new_id()
        self._span = Span(parent_id=root_id, id=root_id)
        self._outer = _parent.set(self._span)
        return self._span

    def __exit__(self, *error: object) -> None:
        _parent.reset(self._outer)
        self._tracer._end(self._span)  # noqa: SLF001 - its other half
        super().__exit__(*error)


@contextmanager
def span(data: Mapping[str, Any]) -> Iterator[Span]:
    """Record a step of the current run; outside a run nothing is recorded."""
    parent = _parent.get()
    opened = Span(parent_id=parent.id if parent else "")
    opened.add(data)
    tracer = _tracer.get()
    if tracer is None:
        yield opened
        return
    with tracer._open(opened):  # noqa: SLF001 - its other half
        yield opened


def span_id() -> str:
    """Return the id of the current span; empty outside a run."""
    parent = _parent.get()
    return parent.id if parent else ""


@contextmanager
def step(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Open a span with one record; the caller sets ``response``, an exception sets ``error``."""
    with span({**data, "response": "", "error": ""}) as opened:
        record: dict[str, Any] = opened.records[0]["data"]
        try:
            yield record
        except BaseException as error:
            record["error"] = f"{type(error).__name__}: {error}"
            raise


def record_spans(spans: Sequence[Mapping[str, Any]]) -> None:
    """Add another program's spans to the current run, in MCP-Universe's format or as plain data.

    Raises:
        TypeError: Not a list of objects.
    """
    if not isinstance(spans, list) or not all(isinstance(each, dict) for each in spans):
        raise TypeError("trace: expected a list of objects")
    tracer = _tracer.get()
    for each in spans if tracer else ():
        assert tracer is not None
        tracer.take(each)


def record_usage(usage: Mapping[str, Any]) -> None:
    """Add to the current run's usage (see ``Usage.add``); a span records what was left out."""
    tracer = _tracer.get()
    left_out = (tracer.usage if tracer else Usage()).add(usage)
    if left_out:
        log.warning("%s: left out", left_out)
        with span({"type": "usage", "dropped": left_out}):
            pass


def _records_of(span: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
    records = span.get("records")
    if isinstance(records, list) and all(isinstance(record, dict) for record in records):
        return records
    return [{"timestamp": now, "data": dict(span)}]


def _sized(record: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the record in valid Unicode, and its size in bytes.

    Raises:
        TypeError: It is not JSON, or is nested too deeply for a Result.
    """
    try:
        return record, _size(record)
    except TypeError:
        valid: dict[str, Any] = valid_json(record)
        return valid, _size(valid)


def _size(record: dict[str, Any]) -> int:
    # orjson limits the depth, and a Result or a task that carries one nests the record some levels
    # deeper.
    return len(orjson.dumps([[[[[[[[[[[[record]]]]]]]]]]]]))


def _without_data(record: Mapping[str, Any], reason: str) -> dict[str, Any]:
    kind = record["data"].get("type") if isinstance(record.get("data"), dict) else None
    kept = {"type": valid_text(shorten(kind, MAX_ID_CHARS))} if isinstance(kind, str) else {}
    timestamp = _seconds(record.get("timestamp"), 0.0)
    return {"timestamp": timestamp, "data": {**kept, "dropped": reason}}


def _id(value: Any) -> str:
    """Return another program's id if it is usable; else an empty string."""
    if isinstance(value, int) and 0 < value < 2**128:
        return str(value)
    return valid_text(shorten(value, MAX_ID_CHARS)) if isinstance(value, str) else ""


def _seconds(value: Any, default: float) -> float:
    """Return another program's time or duration if it is usable; else ``default``."""
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, str) and math.isfinite(number := float(value)):
            return number
    return default


def _cut(value: Any) -> Any:
    """Copy ``value`` without the middle of long strings."""
    if isinstance(value, str) and len(value) > _CUT_TEXT_CHARS:
        half = _CUT_TEXT_CHARS // 2
        beginning, end = shorten(value, half), shorten(value, half, keep_end=True)
        return f"{beginning}... ({len(value):,} characters in all) ...{end}"
    if isinstance(value, dict):
        return {name: _cut(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item) for item in value]
    return value
