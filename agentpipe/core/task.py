"""Task and Result, the only wire formats.

Both travel as JSON with a ``schema`` number. A reader refuses a number it does not
know instead of guessing what the fields mean.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from agentpipe.core.did_you_mean import MISSPELT, nearest
from agentpipe.errors import FormatError, TaskError

SCHEMA = 1
MAX_TASK_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 50
OUTCOMES = (
    "ok",
    "agent_error",
    "limit",
    "infra_error",
    "eval_error",
    "cancelled",
    "stale",
    "crashed",
)

# Typos of these deserve an error; a key far from all of them is somebody's extra (see Task.load).


def new_id() -> str:
    """A unique id that sorts by the time of its making, so that indexes on it stay local."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def utc(timestamp: float) -> str:
    """Unix seconds as ISO 8601 in UTC, always with microseconds: such texts sort by time."""
    fraction, whole = math.modf(timestamp)
    seconds, micros = divmod(int(whole) * 1_000_000 + round(fraction * 1e6), 1_000_000)
    return f"{_utc_second(seconds)}.{micros:06}Z"


@lru_cache(maxsize=64)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


@dataclass(frozen=True, slots=True)
class Task:
    """A question for an agent, with everything that travels with it.

    The fields from ``category`` to ``cleanups`` are MCP-Universe's ``TaskConfig``.

    Attributes:
        task_id: Accepted once; made at sending where it is empty.
        metadata: The sender's own, handed on to the Result unchanged.
        group_id: Ties the samples of one prompt together, with ``sample_index`` (from 0) and
            ``group_size``.
        policy_version: The sender's label of the weights or prompt that produced the task.
        seed: For this sample's model calls.
        sampling: Their other settings, such as ``temperature``, before those of the agent.
        priority: Lower numbers run first, as in Dramatiq.
        deadline: Unix seconds; a task that has not started by then is answered ``stale``.
        replay_of: The dead task whose replay this is.
    """

    question: str = ""
    category: str = "general"
    output_format: dict[str, Any] = field(default_factory=dict)
    mcp_servers: list[dict[str, Any]] = field(default_factory=list)
    use_specified_server: bool = False
    evaluators: list[dict[str, Any]] = field(default_factory=list)
    prepares: list[dict[str, Any]] = field(default_factory=list)
    cleanups: list[dict[str, Any]] = field(default_factory=list)
    task_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    group_id: str | None = None
    sample_index: int | None = None
    group_size: int | None = None
    policy_version: str | int | None = None
    seed: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    deadline: float | None = None
    replay_of: str | None = None

    @classmethod
    def load(cls, data: Any, *, give_id: bool = False) -> Task:
        """Check ``data`` (a dict, a text that is the question, or a Task) and make a Task of it.

        With ``give_id`` a task without an id gets a fresh one.

        Keys that are no field are dropped, as MCP-Universe does, unless one looks like a
        misspelt field.

        Raises:
            TaskError: Naming the field, what is wrong with it and what is right.
        """
        if isinstance(data, str):
            data = {"question": data}
        elif isinstance(data, Task):
            data = asdict(data)
        if not isinstance(data, dict):
            raise TaskError(f"a task is a JSON object or a text, not {_kind(data)}")
        known = {name: value for name, value in data.items() if name in _CHECKS}
        if len(known) < len(data):
            _refuse_misspelt(data)
        for name, value in known.items():
            expected, accepts = _CHECKS[name]
            if not accepts(value):
                raise TaskError(f"{name}: expected {expected}, got {_kind(value)}")
        if known.get("deadline") is not None:
            known["deadline"] = _timestamp(known["deadline"])
        _refuse_what_json_cannot_hold(known)
        if give_id and not known.get("task_id"):
            known["task_id"] = new_id()
        return cls(**known)

    def encode(self) -> bytes:
        """The wire form: ``schema`` and each field that differs from its default.

        Raises:
            TaskError: It is larger than ``MAX_TASK_BYTES``, or holds what JSON cannot.
        """
        wire: dict[str, Any] = {"schema": SCHEMA}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                wire[name] = value
        try:
            data = orjson.dumps(wire)
        except (TypeError, orjson.JSONEncodeError) as error:
            raise TaskError(f"the task is not JSON: {error}") from error
        if len(data) > MAX_TASK_BYTES:
            raise TaskError(
                f"the task has {len(data):,} bytes, {MAX_TASK_BYTES:,} are allowed: "
                "put large inputs in a file or a bucket and send its address"
            )
        return data

    def copy(self) -> Task:
        """A copy that shares nothing that can be changed; by way of JSON, which is quicker."""
        return Task(**orjson.loads(orjson.dumps(self)))

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Task:
        """Read what ``encode`` wrote, already parsed.

        Raises:
            FormatError: It is of another schema, or no Task at all.
        """
        _refuse_other_schemas(data, "task")
        try:
            return cls.load({name: value for name, value in data.items() if name != "schema"})
        except TaskError as error:
            raise FormatError(f"not a task: {error}") from error


@dataclass(frozen=True, slots=True)
class Result:
    """The one terminal record of a task, whatever its outcome.

    The first four fields are what MCP-Universe's consumers read.

    Attributes:
        result: The answer, text or JSON; None where there is none.
        evaluation_results: One ``{config, response, passed, reason, error}`` per evaluator.
        trace: Spans in MCP-Universe's format.
        outcome: One of ``OUTCOMES``.
        attempt: Which run gave this outcome, from 1; 0 where none ran.
        reward: Mean of ``passed``; only for ``ok``, and None without evaluators.
        reward_trustworthy: Whether ``reward`` is a number that all evaluators stand behind.
        error: ``{type, message, traceback}`` or None.
        usage: What the run cost, summed.
        submitted_at: ISO 8601 in UTC, like ``started_at`` and ``finished_at``.
    """

    result: Any = None
    evaluation_results: list[dict[str, Any]] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    task_id: str = ""
    collection: str | None = None
    agent: str | None = None
    attempt: int = 0
    outcome: str = "ok"
    reward: float | None = None
    reward_trustworthy: bool = False
    error: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    worker: str | None = None
    submitted_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    group_id: str | None = None
    sample_index: int | None = None
    group_size: int | None = None
    policy_version: str | int | None = None
    seed: int | None = None
    replay_of: str | None = None
    truncated: dict[str, Any] | None = None
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; values are shared, not copied."""
        return {name: getattr(self, name) for name in _RESULT_FIELDS}

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """Read one record of a stream; keys added by later minor versions are dropped.

        Raises:
            FormatError: It is not JSON, not a Result, or of another schema.
        """
        try:
            record = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise FormatError(f"not JSON: {error}") from error
        _refuse_other_schemas(record, "result")
        if not record.get("task_id"):
            raise FormatError("not a result: it has no task_id")
        for name, value in record.items():
            if not isinstance(value, _RESULT_KINDS.get(name, object)):
                raise FormatError(f"not a result: {name} is {_kind(value)}")
        return cls(**{name: record[name] for name in _RESULT_FIELDS if name in record})


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    if isinstance(value, (bool, int, float)):
        return repr(value)
    return names.get(type(value), type(value).__name__)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 256)  # noqa: PLR2004


def _or_null(accepts: Any) -> Any:
    return lambda value: value is None or accepts(value)


_CHECKS: dict[str, tuple[str, Any]] = {
    "question": ("a text", _is_text),
    "category": ("a text", _is_text),
    "output_format": ("an object", _is_object),
    "mcp_servers": ("a list of objects", _is_objects),
    "use_specified_server": ("true or false", lambda value: isinstance(value, bool)),
    "evaluators": ("a list of objects", _is_objects),
    "prepares": ("a list of objects", _is_objects),
    "cleanups": ("a list of objects", _is_objects),
    "task_id": ("a text of at most 256 characters", lambda v: v is not None and _is_id(v)),
    "metadata": ("an object", _is_object),
    "group_id": ("a text of at most 256 characters", _is_id),
    "sample_index": ("a whole number", _or_null(_is_int)),
    "group_size": ("a whole number", _or_null(_is_int)),
    "policy_version": ("a text or a whole number", _or_null(lambda v: _is_text(v) or _is_int(v))),
    "seed": ("a whole number", _or_null(_is_int)),
    "sampling": ("an object", _is_object),
    "priority": ("a whole number", _is_int),
    "deadline": (
        "Unix seconds, or ISO 8601 with a zone",
        _or_null(lambda v: _is_text(v) or _is_int(v) or isinstance(v, float)),
    ),
    "replay_of": ("a text of at most 256 characters", _is_id),
}

_EMPTY = asdict(Task())
_DEFAULTS = {name: _EMPTY[name] for name in _CHECKS}
_RESULT_FIELDS = tuple(entry.name for entry in fields(Result))
_OR_NULL = type(None)
# What readers rely on; other fields may hold any JSON.
_RESULT_KINDS: dict[str, Any] = {
    "task_id": str,
    "outcome": str,
    "evaluation_results": list,
    "trace": list,
    "metadata": dict,
    "usage": dict,
    "error": (dict, _OR_NULL),
    "reward": (int, float, _OR_NULL),
    **dict.fromkeys(("collection", "agent", "worker", "group_id"), (str, _OR_NULL)),
    **dict.fromkeys(("submitted_at", "started_at", "finished_at"), (str, _OR_NULL)),
}


def _refuse_misspelt(data: dict[Any, Any]) -> None:
    for name in data:
        if not isinstance(name, str):
            raise TaskError(f"keys are texts, got {_kind(name)}")
        if name not in _CHECKS and (near := nearest(name, _CHECKS, MISSPELT)):
            raise TaskError(f"unknown key {name!r}: did you mean {near!r}?")


def _timestamp(value: str | float) -> float:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise TaskError(f"deadline: {value!r} is not ISO 8601") from error
        if moment.tzinfo is None:
            raise TaskError(f"deadline: {value!r} has no zone: end it with Z or +01:00")
        value = moment.timestamp()
    try:
        utc(value)  # It is shown so.
    except (ValueError, OverflowError, OSError) as error:
        raise TaskError(f"deadline: {value!r} is no time: {error}") from error
    return float(value)


def _refuse_what_json_cannot_hold(value: Any, where: str = "", depth: int = 0) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise TaskError(f"{where}: contains a NUL character; remove it")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise TaskError(f"{where}: {value} is not JSON; use null or a number")
    elif isinstance(value, dict):
        _refuse_depth(where, depth)
        for name, item in value.items():
            if not isinstance(name, str) or "\0" in name:
                raise TaskError(f"{where}: keys are texts without NUL, got {_kind(name)}")
            _refuse_what_json_cannot_hold(item, f"{where}.{name}" if where else name, depth + 1)
    elif isinstance(value, (list, tuple)):
        _refuse_depth(where, depth)
        for index, item in enumerate(value):
            _refuse_what_json_cannot_hold(item, f"{where}[{index}]", depth + 1)


def _refuse_depth(where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TaskError(f"{where[:80]}: nested deeper than {MAX_DEPTH} levels")


def _refuse_other_schemas(data: Any, noun: str) -> None:
    if not isinstance(data, dict):
        raise FormatError(f"not a {noun}: expected an object, got {_kind(data)}")
    schema = data.get("schema")
    if schema != SCHEMA:
        raise FormatError(
            f"a {noun} of schema {schema!r:.40}; this agentpipe reads schema {SCHEMA}: "
            "upgrade the older side"
        )
