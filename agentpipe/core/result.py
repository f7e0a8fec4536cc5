"""Result: the single terminal record of a task, as delivered to the sink and the stream."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core import caps
from agentpipe.core.outside import ORJSON_DEPTH, is_deep, valid_text
from agentpipe.core.slots import Slots
from agentpipe.core.task import SCHEMA, refuse_other_schemas
from agentpipe.core.task_fields import kind_of
from agentpipe.core.timestamps import moment_of, seconds_of, utc
from agentpipe.core.usage import numbers_in
from agentpipe.errors import FormatError

if TYPE_CHECKING:
    from agentpipe.core.redaction import Redactor
    from agentpipe.core.task import Task

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
# Why an answer ended, if the agent knows: complete, cut, withheld by a filter, or refused.
STOP, LENGTH, CONTENT_FILTER, REFUSAL = "stop", "length", "content_filter", "refusal"
STOPS = (STOP, LENGTH, CONTENT_FILTER, REFUSAL)
WITHHELD = "not shown: the answer holds a credential"
# The error type in a message, also if a user's function or another evaluator raised it.
_ERROR_TYPE = re.compile(r"(?:\S{1,200} raised )?([^\W\d]\w{0,200}): ")
# Fields that a Result copies from its task.
CARRIED = (
    "metadata",
    "group_id",
    "sample_index",
    "group_size",
    "group_need",
    "policy_version",
    "seed",
    "replay_of",
    "run",
    "retry_of",
)
_CARRIED_OF = attrgetter(*CARRIED)
# Ids and metadata are not masked: senders find their results by them. Everything else is, including
# the task, since its question can quote what an earlier agent saw.
MASKED = ("result", "evaluation_results", "trace", "task", "error", "usage", "usage_total")


@dataclass(frozen=True, slots=True)
class Result:
    """The single terminal record of a task, whatever its outcome.

    The first four fields are what MCP-Universe's consumers read.

    Attributes:
        result: The answer, a string or JSON; None if there is none.
        evaluation_results: One ``{config, response, passed, reason, error}`` per evaluator, with
            ``score`` if it graded the answer.
        trace: Spans in MCP-Universe's format.
        task: What the sender asked for, see ``Task.as_sent``; None if the task could not be read.
        outcome: One of ``OUTCOMES``.
        stop: Why the answer ended, one of ``STOPS``; None if the agent does not know.
        context: Index of the agent's context in its collection, from 0; never a value of it.
        attempt: Number of the run with this outcome, from 1; 0 if none ran.
        reward: Weighted mean of the evaluators' scores for ``ok``, the collection's ``on_limit``
            for ``limit``; None for other outcomes or without evaluators.
        rewards: The reward per named evaluator.
        reward_trustworthy: Whether every evaluator could judge, so that ``reward`` is a number.
        error: ``{type, message, traceback}`` or None; has ``permanent: true`` if the setup failed.
        usage: Summed cost of the run.
        usage_total: Summed cost of all runs of the task; empty in results of earlier versions.
        rollout: Token ids as the serving engine sampled them; None if none were recorded.
        config_hash: Fingerprint of the config that the worker ran.
        truncated: Which ``fields`` were cut or left out, and why: ``reason`` if they are not JSON
            or the broker refuses them; ``bytes``, ``spans`` and ``remedy`` if the sink's size limit
            is lower.
        rescored_of: The task whose stored answer was evaluated again, without a run.
        submitted_at: ISO 8601 in UTC, like ``started_at`` and ``finished_at``.
    """

    result: Any = None
    evaluation_results: list[dict[str, Any]] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] | None = None
    task_id: str = ""
    collection: str | None = None
    agent: str | None = None
    context: int | None = None
    attempt: int = 0
    outcome: str = "ok"
    stop: str | None = None
    reward: float | None = None
    rewards: dict[str, float] = field(default_factory=dict)
    reward_trustworthy: bool = False
    error: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    usage_total: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, Any] | None = None
    worker: str | None = None
    config_hash: str | None = None
    submitted_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    group_id: str | None = None
    sample_index: int | None = None
    group_size: int | None = None
    group_need: int | None = None
    policy_version: str | int | None = None
    seed: int | None = None
    replay_of: str | None = None
    run: str | None = None
    retry_of: str | None = None
    rescored_of: str | None = None
    truncated: dict[str, Any] | None = None
    schema: int = SCHEMA

    @classmethod
    def of(cls, task: Task | None, **fields: Any) -> Result:
        """Create a Result that finishes now; ``task`` is None if it could not be read."""
        carried: dict[str, Any] = {}
        if task is not None:
            carried = dict(zip(CARRIED, _CARRIED_OF(task), strict=True))
            carried["task"] = task.as_sent()
            if "usage_total" not in fields:
                carried["usage_total"] = numbers_in(task.spent_before)
        return _SLOTS.filled({"finished_at": utc(time.time()), **carried, **fields})

    @classmethod
    def cancelled(
        cls,
        task: Task | None,
        *,
        task_id: str,
        queue: str,
        collection: str | None,
        submitted_at: float,
    ) -> Result:
        """Return the Result of a task that was cancelled before a worker claimed it."""
        return cls.of(
            task,
            task_id=task_id,
            collection=collection,
            agent=queue,
            outcome="cancelled",
            submitted_at=utc(submitted_at),
        )

    @property
    def paid(self) -> dict[str, Any]:
        """What the task cost; for results of earlier versions, only the last run's cost."""
        return self.usage_total or self.usage

    @property
    def parent(self) -> str | None:
        """The task that this one repeats; None for a first attempt. See ``core.attempts``."""
        return self.retry_of or self.replay_of

    @property
    def finished(self) -> float | None:
        """Unix seconds when it ended; None if unknown."""
        return seconds_of(self.finished_at)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name; values are shared, not copied."""
        return dict(zip(_RESULT_FIELDS, _SLOTS.values(self), strict=True))

    def encode(self, redactor: Redactor) -> bytes:
        """Return the wire form, with all credentials that ``redactor`` knows masked.

        A field that is not JSON is left out and listed in ``truncated``, so that a bad trace or
        usage does not cost the answer.
        """
        encoded = _encoded(self.to_dict())
        return _masked(encoded, redactor) if redactor.occurs_in(encoded) else encoded

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """Read one record of a stream; keys added by later minor versions are dropped.

        Raises:
            FormatError: The record is not JSON, not a Result, or has another schema.
        """
        record = _parsed(data)
        refuse_other_schemas(record, "result")
        if not record.get("task_id"):
            raise FormatError("not a result: it has no task_id")
        for name, value in record.items():
            if not isinstance(value, _RESULT_KINDS.get(name, object)):
                raise FormatError(f"not a result: {name} is {kind_of(value)}")
        _refuse_odd_times(record)
        return _SLOTS.filled(record)


def _parsed(data: Any) -> Any:
    """Parse a stream record, which can come from foreign code."""
    if not data or not isinstance(data, bytes):
        most = f"{caps.MAX_RECORD_BYTES:,} bytes (MAX_RECORD_BYTES)"
        raise FormatError(f"not a result: it is empty, of another type, or above {most}")
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error}") from error
    if is_deep(data, record, ORJSON_DEPTH):
        raise FormatError(f"not a result: nested deeper than {ORJSON_DEPTH} levels")
    return record


def _refuse_odd_times(record: dict[str, Any]) -> None:
    """Reject invalid times, since readers compute with them."""
    for name in ("started_at", "finished_at"):
        if record.get(name) is not None and moment_of(record[name]) is None:
            raise FormatError(f"not a result: {name} is not a time in UTC")


def _encoded(record: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(record)
    except TypeError as error:
        left_out = [name for name, value in record.items() if not _is_json(value)]
        mark = {"fields": left_out, "reason": f"not JSON: {valid_text(str(error))[:300]}"}
        empty = {name: _EMPTY[name] for name in left_out}
        return orjson.dumps({**record, **empty, "truncated": mark})


def _is_json(value: Any) -> bool:
    try:
        orjson.dumps([value])  # At the same depth as in the record.
    except TypeError:
        return False
    return True


def _masked(encoded: bytes, redactor: Redactor) -> bytes:
    record = orjson.loads(encoded)  # The agent's tuples and dataclasses are plain JSON by now.
    answer = orjson.dumps(record["result"])
    if redactor.occurs_in(answer):
        _withhold_quotations(record, answer.decode())
    return orjson.dumps(record | {name: redactor.value(record[name]) for name in MASKED})


def _withhold_quotations(record: dict[str, Any], answer: str) -> None:
    """Withhold messages: evaluators quote the answer, and part of a secret is undetectable."""
    for evaluation in record["evaluation_results"]:
        evaluation["reason"] = evaluation["reason"] and WITHHELD
        evaluation["error"] = evaluation["error"] and _withheld(evaluation["error"], answer)
    if record["error"]:
        record["error"]["message"] = _withheld(record["error"]["message"], answer)


def _withheld(error: str, answer: str) -> str:
    """Keep only the error's type, which quotes nothing, unless the answer contains it."""
    found = _ERROR_TYPE.match(error)
    return f"{found[1]}: {WITHHELD}" if found and found[1] not in answer else WITHHELD


_RESULT_FIELDS = tuple(entry.name for entry in fields(Result))
_SLOTS = Slots(Result)
_EMPTY = Result().to_dict()
_OR_NULL = type(None)
# Types that readers rely on; other fields can hold any JSON.
_RESULT_KINDS: dict[str, Any] = {
    "task_id": str,
    "outcome": str,
    "evaluation_results": list,
    "trace": list,
    "metadata": dict,
    "usage": dict,
    "usage_total": dict,
    "rewards": dict,
    "error": (dict, _OR_NULL),
    "reward": (int, float, _OR_NULL),
    **dict.fromkeys(
        ("collection", "agent", "stop", "worker", "config_hash", "group_id"), (str, _OR_NULL)
    ),
    **dict.fromkeys(("submitted_at", "started_at", "finished_at"), (str, _OR_NULL)),
    **dict.fromkeys(
        ("sample_index", "group_size", "group_need", "seed", "context"), (int, _OR_NULL)
    ),
    "policy_version": (str, int, _OR_NULL),
    **dict.fromkeys(("replay_of", "run", "retry_of", "rescored_of"), (str, _OR_NULL)),
    "truncated": (dict, _OR_NULL),
    "task": (dict, _OR_NULL),
    "rollout": (dict, _OR_NULL),
    "attempt": int,
    "reward_trustworthy": bool,
}
