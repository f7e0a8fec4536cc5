"""Columns: a Result as one flat row, the same in every format with rows.

A column keeps its name and kind. Nested values are JSON text, so that no single result decides the
type of a column.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal

import orjson

from agentpipe.core import timestamps
from agentpipe.core.numbers import is_integer, is_number
from agentpipe.core.outside import encoded, valid_text
from agentpipe.core.rollout import tokens_of_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from agentpipe.core.result import Result

Kind = Literal["string", "integer", "number", "boolean", "time", "json"]
Value = str | int | float | bool | None
Row = dict[str, Value]
# Increased when a column is added; stored in the format's metadata if it has any.
COLUMNS_VERSION = 2
_MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """One column.

    Attributes:
        kind: ``time`` is ISO 8601 in UTC, ``json`` is text.
        of: Reads the value from a Result; by default, the field of the same name.
    """

    name: str
    kind: Kind
    of: Callable[[Result], Any] | None = None

    def value(self, result: Result) -> Value:
        """The Result's value as this kind, or None."""
        value = self.of(result) if self.of else getattr(result, self.name)
        return None if value is None else _AS[self.kind](value)


def _string(value: Any) -> str:
    return valid_text(value) if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return encoded(value).decode()


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_one = is_integer(value) and -_MAX_INTEGER <= value <= _MAX_INTEGER
    return value if is_one else None


def number_of(value: Any) -> float | None:
    """The value as a float; None if it is not a number, or too large for a double."""
    with suppress(OverflowError):
        return float(value) if is_number(value) else None
    return None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _time(value: Any) -> str | None:
    """The time in UTC with microseconds, whatever its original time zone."""
    moment = moment_of(value)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z" if moment else None


def moment_of(text: Any) -> datetime | None:
    """A time in UTC; None for any other value."""
    moment = timestamps.moment_of(text)
    with suppress(OverflowError):
        return moment and moment.astimezone(UTC)
    return None


_AS: dict[Kind, Callable[[Any], Value]] = {
    "string": _string,
    "integer": _integer,
    "number": number_of,
    "boolean": _boolean,
    "time": _time,
    "json": _json,
}


def _of_error(name: str) -> Callable[[Result], Any]:
    return lambda result: (result.error or {}).get(name)


def _of_usage(name: str) -> Callable[[Result], Any]:
    return lambda result: result.usage.get(name)


def _usd_total(result: Result) -> Any:
    return result.paid.get("usd")


def _is_exact(result: Result) -> Any:
    return None if result.rollout is None else result.rollout.get("exact")


def _tokens_recorded(result: Result) -> int | None:
    return None if result.rollout is None else sum(tokens_of_segments(result.rollout))


def _of_task(name: str) -> Callable[[Result], Any]:
    return lambda result: (result.task or {}).get(name)


def _is_json(result: Result) -> bool | None:
    return None if result.result is None else not isinstance(result.result, str)


def _run_s(result: Result) -> float | None:
    started, finished = moment_of(result.started_at), moment_of(result.finished_at)
    return (finished - started).total_seconds() if started and finished else None


TRACE = "trace"
COLUMNS = (
    ExportColumn("task_id", "string"),
    ExportColumn("run", "string"),
    ExportColumn("collection", "string"),
    ExportColumn("agent", "string"),
    ExportColumn("group_id", "string"),
    ExportColumn("sample_index", "integer"),
    ExportColumn("group_size", "integer"),
    ExportColumn("attempt", "integer"),
    ExportColumn("outcome", "string"),
    ExportColumn("stop", "string"),
    ExportColumn("reward", "number"),
    ExportColumn("reward_trustworthy", "boolean"),
    ExportColumn("rewards", "json"),
    ExportColumn("question", "string", _of_task("question")),
    ExportColumn("category", "string", _of_task("category")),
    ExportColumn("result", "string"),
    ExportColumn("result_is_json", "boolean", _is_json),
    ExportColumn("evaluation_results", "json"),
    ExportColumn("error_type", "string", _of_error("type")),
    ExportColumn("error_message", "string", _of_error("message")),
    ExportColumn("error_traceback", "string", _of_error("traceback")),
    ExportColumn("error_permanent", "boolean", _of_error("permanent")),
    ExportColumn("requests", "integer", _of_usage("requests")),
    ExportColumn("input_tokens", "integer", _of_usage("input_tokens")),
    ExportColumn("output_tokens", "integer", _of_usage("output_tokens")),
    ExportColumn("cached_tokens", "integer", _of_usage("cached_tokens")),
    ExportColumn("usd", "number", _of_usage("usd")),
    ExportColumn("usage", "json"),
    ExportColumn("submitted_at", "time"),
    ExportColumn("started_at", "time"),
    ExportColumn("finished_at", "time"),
    ExportColumn("run_s", "number", _run_s),
    ExportColumn("policy_version", "string"),
    ExportColumn("seed", "integer"),
    ExportColumn("replay_of", "string"),
    ExportColumn("retry_of", "string"),
    ExportColumn("rescored_of", "string"),
    ExportColumn("worker", "string"),
    ExportColumn("config_hash", "string"),
    ExportColumn("task", "json"),
    ExportColumn("metadata", "json"),
    ExportColumn("truncated", "json"),
    ExportColumn(TRACE, "json"),
    ExportColumn("context", "integer"),
    ExportColumn("usd_total", "number", _usd_total),
    ExportColumn("usage_total", "json", lambda result: result.paid),
    ExportColumn("rollout_exact", "boolean", _is_exact),
    ExportColumn("rollout_tokens", "integer", _tokens_recorded),
)


def columns(*, trace: bool) -> tuple[ExportColumn, ...]:
    """All columns, optionally without the trace, which is most of a Result."""
    return tuple(each for each in COLUMNS if trace or each.name != TRACE)


def row(result: Result, wanted: Iterable[ExportColumn]) -> Row:
    """The Result's values by column."""
    return {each.name: each.value(result) for each in wanted}


def json_line(result: Result, wanted: Iterable[ExportColumn]) -> bytes:
    """The row as one line of JSONL."""
    return orjson.dumps(row(result, wanted), option=orjson.OPT_APPEND_NEWLINE)
