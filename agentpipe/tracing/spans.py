"""Spans: converts a Result to the trace of its run; the ids are the same each time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from agentpipe import __version__
from agentpipe.core.numbers import is_number
from agentpipe.core.outside import valid_text
from agentpipe.core.timestamps import seconds_of
from agentpipe.core.transcript import records_of
from agentpipe.sinks.seen import submission_of
from agentpipe.tracing.attributes import agent_name, as_object, of_evaluation, of_run, of_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.core.result import Result

_NS = 1_000_000_000
# The most seconds whose nanoseconds fit in 64 bits.
_MAX_S = 2**63 / _NS
_SCOPE = InstrumentationScope("agentpipe", __version__)


class TraceMaker:
    """Converts results to traces.

    Args:
        content: Whether to include questions, answers, messages and arguments.
    """

    def __init__(self, *, content: bool) -> None:
        self._content = content
        self._resource = Resource.create(
            {"service.name": "agentpipe", "service.version": __version__}
        )

    def spans_of(self, result: Result) -> Iterator[ReadableSpan]:
        """The span of the run, then the spans below it."""
        trace = f"{result.task_id}\0{submission_of(result) or ''}"
        root = _context(trace, "run")
        begun = _begun_s(result)
        ended = max(begun, seconds_of(result.finished_at) or begun)
        yield self._span(
            f"invoke_agent {agent_name(result)}",
            root,
            None,
            (begun, ended),
            of_run(result, content=self._content),
            failed=result.outcome not in ("ok", "cancelled"),
            events=self._events(result, ended),
        )
        yield from self._steps(result, trace, root, begun)

    def _events(self, result: Result, ended: float) -> list[Event]:
        return [
            Event(
                "gen_ai.evaluation.result",
                of_evaluation(place, as_object(each), content=self._content),
                round(ended * _NS),
            )
            for place, each in enumerate(result.evaluation_results)
        ]

    def _steps(
        self, result: Result, trace: str, root: SpanContext, begun: float
    ) -> Iterator[ReadableSpan]:
        data_of: dict[int, dict[str, Any]] = {}
        for span, data in records_of(result.trace):
            data_of.setdefault(id(span), data)
        trace_spans: list[Any] = result.trace  # The record may not be ours.
        spans = [it for it in trace_spans if isinstance(it, dict) and not _is_root(it)]
        contexts = {str(it.get("id")): _context(trace, str(it.get("id"))) for it in spans}
        for it in spans:
            name, attributes = of_step(data_of.get(id(it), {}), content=self._content)
            yield self._span(
                name,
                contexts[str(it.get("id"))],
                contexts.get(str(it.get("parent_id")), root),
                _times(it, begun),
                attributes,
                failed="error.type" in attributes,
            )

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[float, float],
        attributes: Mapping[str, Any],
        *,
        failed: bool,
        events: list[Event] | None = None,
    ) -> ReadableSpan:
        begun, ended = times
        is_request = attributes.get("gen_ai.operation.name") == "chat"
        return ReadableSpan(
            valid_text(name),
            context,
            parent,
            self._resource,
            attributes,
            events or (),
            kind=SpanKind.CLIENT if is_request else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=round(begun * _NS),
            end_time=round(ended * _NS),
            instrumentation_scope=_SCOPE,
        )


def _is_root(span: Mapping[str, Any]) -> bool:
    return span.get("id") == span.get("parent_id")


def _context(trace: str, span: str) -> SpanContext:
    """The ids of a span: the same for the same submission and span, in every process."""
    ids = _number(trace, 16), _number(f"{trace}\0{span}", 8)
    return SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _number(text: str, size: int) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()
    return int.from_bytes(digest, "big") or 1  # 0 is not an id.


def _begun_s(result: Result) -> float:
    # A task that never ran has a span without a duration: it waited, but no agent was invoked.
    times = (result.started_at, result.finished_at, result.submitted_at)
    found = [seconds for it in times if (seconds := seconds_of(it)) is not None]
    return max(0.0, found[0]) if found else 0.0


def _times(span: Mapping[str, Any], begun: float) -> tuple[float, float]:
    """Start and end in seconds; values in foreign spans are not trusted."""
    start = _seconds(span.get("timestamp"), begun)
    return start, min(_MAX_S, start + _seconds(span.get("running_time"), 0.0))


def _seconds(value: Any, otherwise: float) -> float:
    return float(value) if is_number(value) and 0 <= value < _MAX_S / 2 else otherwise
