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
class Column:
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
    Column("task_id", "string"),
    Column("run", "string"),
    Column("collection", "string"),
    Column("agent", "string"),
    Column("group_id", "string"),
    Column("sample_index", "integer"),
    Column("group_size", "integer"),
    Column("attempt", "integer"),
    Column("outcome", "string"),
    Column("stop", "string"),
    Column("reward", "number"),
    Column("reward_trustworthy", "boolean"),
    Column("rewards", "json"),
    Column("question", "string", _of_task("question")),
    Column("category", "string", _of_task("category")),
    Column("result", "string"),
    Column("result_is_json", "boolean", _is_json),
    Column("evaluation_results", "json"),
    Column("error_type", "string", _of_error("type")),
    Column("error_message", "string", _of_error("message")),
    Column("error_traceback", "string", _of_error("traceback")),
    Column("error_permanent", "boolean", _of_error("permanent")),
    Column("requests", "integer", _of_usage("requests")),
    Column("input_tokens", "integer", _of_usage("input_tokens")),
    Column("output_tokens", "integer", _of_usage("output_tokens")),
    Column("cached_tokens", "integer", _of_usage("cached_tokens")),
    Column("usd", "number", _of_usage("usd")),
    Column("usage", "json"),
    Column("submitted_at", "time"),
    Column("started_at", "time"),
    Column("finished_at", "time"),
    Column("run_s", "number", _run_s),
    Column("policy_version", "string"),
    Column("seed", "integer"),
    Column("replay_of", "string"),
    Column("retry_of", "string"),
    Column("rescored_of", "string"),
    Column("worker", "string"),
    Column("config_hash", "string"),
    Column("task", "json"),
    Column("metadata", "json"),
    Column("truncated", "json"),
    Column(TRACE, "json"),
    Column("context", "integer"),
    Column("usd_total", "number", _usd_total),
    Column("usage_total", "json", lambda result: result.paid),
    Column("rollout_exact", "boolean", _is_exact),
    Column("rollout_tokens", "integer", _tokens_recorded),
)


def columns(*, trace: bool) -> tuple[Column, ...]:
    """All columns, optionally without the trace, which is most of a Result."""
    return tuple(each for each in COLUMNS if trace or each.name != TRACE)


def row(result: Result, wanted: Iterable[Column]) -> Row:
    """The Result's values by column."""
    return {each.name: each.value(result) for each in wanted}


def json_line(result: Result, wanted: Iterable[Column]) -> bytes:
    """The row as one line of JSONL."""
    return orjson.dumps(row(result, wanted), option=orjson.OPT_APPEND_NEWLINE)
