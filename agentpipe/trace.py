"""Trace: the spans of one run, in MCP-Universe's format, and the one place that redacts.

A span is ``{id, trace_id, parent_id, records: [{timestamp, data}], running_time, timestamp,
span_index}``; it enters the list when it ends, so children stand before their parents, and
the root span is its own parent (``mcpuniverse/tracer/types.py`` of 1.1.3).

An agent adds its own spans so::

    with agentpipe.trace.span({"type": "tool", "tool_name": "search"}) as span:
        span.add({"response": ...})
"""

from __future__ import annotations

import json
import random
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MASK = "***"
# Shorter values, and these words, are settings rather than secrets: masking each "1" or "true"
# of an answer would destroy it.
MIN_SECRET = 4
NO_SECRETS = frozenset({"true", "false", "none", "null"})

_tracer: ContextVar[Tracer | None] = ContextVar("agentpipe_tracer", default=None)
_parent: ContextVar[Span | None] = ContextVar("agentpipe_span", default=None)


def _new_id() -> str:
    """As a UUID reads; from the process's own generator, for it need only be unique."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(slots=True)
class Span:
    """A step of a run that has begun."""

    parent_id: str
    id: str = field(default_factory=_new_id)
    records: list[dict[str, Any]] = field(default_factory=list)
    timestamp: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)

    def add(self, data: Mapping[str, Any]) -> None:
        """Record ``data``, any JSON, with the time."""
        self.records.append({"timestamp": time.time(), "data": dict(data)})


class Tracer:
    """Collects the spans of one run.

    Attributes:
        spans: Those that have ended, as they stand in a Result.
    """

    def __init__(self) -> None:
        self.trace_id = _new_id()
        self.spans: list[dict[str, Any]] = []

    @contextmanager
    def root(self) -> Iterator[Span]:
        """The span of the whole run; ``span`` adds children below it."""
        tracer_token, root_id = _tracer.set(self), _new_id()
        try:
            with self._open(Span(parent_id=root_id, id=root_id)) as root:
                yield root
        finally:
            _tracer.reset(tracer_token)

    @contextmanager
    def _open(self, span: Span) -> Iterator[Span]:
        token = _parent.set(span)
        try:
            yield span
        finally:
            _parent.reset(token)
            self._end(span)

    def _end(self, span: Span) -> None:
        self.spans.append(
            {
                "id": span.id,
                "trace_id": self.trace_id,
                "parent_id": span.parent_id,
                "records": span.records,
                "running_time": time.monotonic() - span.started,
                "timestamp": span.timestamp,
                "span_index": len(self.spans),
            }
        )


@contextmanager
def span(data: Mapping[str, Any]) -> Iterator[Span]:
    """A step of the current run; outside any run it is recorded nowhere."""
    parent = _parent.get()
    opened = Span(parent_id=parent.id if parent else "")
    opened.add(data)
    tracer = _tracer.get()
    if tracer is None:
        yield opened
        return
    with tracer._open(opened):  # noqa: SLF001 - its other half
        yield opened


class Redactor:
    """Masks the values of contexts in what leaves a worker."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if _is_secret(secret) for form in _forms(secret)}
        self._secrets = sorted(forms, key=len, reverse=True)
        self._in_json = [orjson.dumps(secret)[1:-1] for secret in self._secrets]

    def text(self, text: str) -> str:
        """``text`` with each secret masked, the longest first."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def occurs_in(self, encoded: bytes) -> bool:
        """Whether a JSON text that orjson wrote holds a secret: cheap, and most hold none."""
        return any(secret in encoded for secret in self._in_json)

    def value(self, value: Any) -> Any:
        """A copy of parsed JSON with each secret masked, in keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self.value(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value


def _forms(secret: str) -> set[str]:
    """As it is, as it stands inside a repr or a JSON text of either style, and those in JSON."""
    reprs = {repr(secret)[1:-1], repr(secret.encode())[2:-1]}
    forms = {secret, *reprs, *_in_json(secret)}
    return forms.union(*map(_in_json, forms))


def _in_json(text: str) -> set[str]:
    return {orjson.dumps(text)[1:-1].decode(), json.dumps(text)[1:-1]}


def _is_secret(value: str) -> bool:
    return len(value) >= MIN_SECRET and value.lower() not in NO_SECRETS
