"""Task: what travels from a sender to a worker.

It travels as JSON with a ``schema`` number. A reader refuses a number that it does not know
instead of guessing what the fields mean.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.did_you_mean import MISSPELT, nearest
from agentpipe.core.json_values import JsonRules
from agentpipe.core.run_names import RUN_NAME, is_of_run, is_run_name, prefix_of
from agentpipe.core.slots import Slots
from agentpipe.core.timestamps import utc
from agentpipe.errors import FormatError, TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMA = 1
MAX_TASK_BYTES = 10 * 1024 * 1024
# With the answer and the trace of an earlier run, or what it cost.
MAX_CARRIED_BYTES = 128 * 1024 * 1024
MAX_DEPTH = 50
MAX_ID = 256
# What a Result repeats must fit into a sink's record beside the answer; Kafka takes 1 MB of all.
MAX_FIELD_BYTES = {"metadata": 512 * 1024, "sampling": 64 * 1024, "category": 1_024}
# What a Result repeats as its ``task``; other fields have places of their own there, or end with
# the run.
ASKED = (
    "question",
    "category",
    "output_format",
    "mcp_servers",
    "use_specified_server",
    "evaluators",
    "prepares",
    "cleanups",
    "sampling",
)
TASKS = JsonRules(MAX_DEPTH, other_types=True, nul=False)


def new_id() -> str:
    """A unique id that sorts by its time of creation, so that index pages stay local."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Task:
    """A question for an agent, with everything that travels with it.

    The fields from ``category`` to ``cleanups`` are MCP-Universe's ``TaskConfig``.

    Attributes:
        task_id: Accepted once; ``send`` generates it where it is empty.
        metadata: The sender's own, copied to the Result.
        group_id: Ties the samples of one prompt together, with ``sample_index`` (from 0) and
            ``group_size``.
        group_need: How many samples the group needs: the broker counts it, see ``send_group``.
        group_repairs: How many of its samples may be replaced that ended without judgement.
        policy_version: The sender's label of the weights or prompt that produced the task.
        seed: For this sample's model calls.
        sampling: Their other settings, such as ``temperature``, before those of the agent.
        priority: Lower numbers run first, as in Dramatiq.
        deadline: Unix seconds; a task that starts later ends as ``stale``.
        replay_of: The dead task whose replay this is.
        run: The run that it belongs to; its ids begin with that name, see ``run_names``.
        retry_of: The finished task that this one tries again.
        answered: The answer of an earlier run, which only has to be judged; set by workers.
        spent_before: What its earlier runs cost, summed; set by workers.
        config_hash: The fingerprint of its sender's collection; set by the dispatcher.
        dramatiq: Options of the Dramatiq message that sent it, such as its pipeline's next one.
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
    group_need: int | None = None
    group_repairs: int | None = None
    policy_version: str | int | None = None
    seed: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    deadline: float | None = None
    replay_of: str | None = None
    run: str | None = None
    retry_of: str | None = None
    answered: dict[str, Any] | None = None
    spent_before: dict[str, Any] | None = None
    config_hash: str | None = None
    dramatiq: dict[str, Any] | None = None

    @classmethod
    def load(cls, data: Any, *, give_id: bool = False) -> Task:
        """Check ``data`` (a dict, a string that is the question, or a Task) and build the Task.

        With ``give_id`` a task without an id gets a new one.

        Unknown keys are dropped, as MCP-Universe does, unless one looks like a misspelt field.

        Raises:
            TaskError: With each mistake: the field, what is wrong with it and what is right.
        """
        flaws: list[str] = []
        if isinstance(data, str):
            data = {"question": data}
        elif isinstance(data, Task):
            data = asdict(data)
        elif not isinstance(data, dict):
            raise TaskError(f"a task is a JSON object or a string, not {kind_of(data)}")
        elif data.get("task_id") == "":
            flaws = ["task_id: it is empty; give one, or leave the key out"]
        known = {name: value for name, value in data.items() if name in _CHECKS}
        if len(known) < len(data):
            flaws += _misspelt(data)
        flaws += _wrong_values(known)
        if flaws:
            raise TaskError(*flaws)
        if give_id and not known.get("task_id"):
            known["task_id"] = (
                f"{prefix_of(known['run'])}{new_id()}" if known.get("run") else new_id()
            )
        return _SLOTS.filled(known)

    def encode(self) -> bytes:
        """The wire form: ``schema`` and each field that differs from its default.

        Raises:
            TaskError: It is larger than ``MAX_TASK_BYTES``, or holds what JSON cannot.
        """
        named = zip(_DEFAULTS.items(), _SLOTS.values(self), strict=True)
        wire = {name: value for (name, default), value in named if value != default}
        try:
            data = orjson.dumps({"schema": SCHEMA, **wire})
        except (TypeError, orjson.JSONEncodeError) as error:
            raise TaskError(f"the task is not JSON: {error}") from error
        return self._of_size(data)

    def encode_with(self, encoded: bytes, fields: Mapping[str, Any]) -> bytes:
        """``encode`` of the task with other ``fields``; faster where ``encoded`` has none of them.

        ``encoded`` is the task as it is.
        """
        new = {name: value for name, value in fields.items() if value != getattr(self, name)}
        if any(getattr(self, name) != _DEFAULTS[name] for name in new):
            return self.changed(**fields).encode()
        return self._of_size(b"%b,%b" % (encoded[:-1], orjson.dumps(new)[1:])) if new else encoded

    def _of_size(self, data: bytes) -> bytes:
        has_run = self.answered is not None or self.spent_before is not None
        if len(data) > (MAX_CARRIED_BYTES if has_run else MAX_TASK_BYTES):
            raise TaskError(
                f"the task has {len(data):,} bytes, {MAX_TASK_BYTES:,} are allowed: "
                "put large inputs in a file or a bucket and send its address"
            )
        return data

    def changed(self, **fields: Any) -> Task:
        """The same as ``dataclasses.replace``, in a third of the time."""
        return _SLOTS.changed(self, fields)

    def as_sent(self) -> dict[str, Any]:
        """What the sender asked for, for the Result: of ``ASKED`` what differs from its default.

        Values are shared, not copied.
        """
        values = ((name, getattr(self, name)) for name in ASKED)
        return {name: value for name, value in values if value != _DEFAULTS[name]}

    def copy(self) -> Task:
        """A deep copy; what can be changed goes by way of JSON, which is faster."""
        own = {name: getattr(self, name) for name in _CHANGEABLE}
        return _SLOTS.changed(self, orjson.loads(orjson.dumps(own)))

    @classmethod
    def decode(cls, data: Any) -> Task:
        """Read what ``encode`` wrote, already parsed.

        Its sender checked it: here only what a run relies on is checked again, the type of each
        field, since anybody may write to a queue.

        Raises:
            FormatError: It is of another schema, or no Task at all.
        """
        refuse_other_schemas(data, "task")
        known = {name: value for name, value in data.items() if name in _CHECKS}
        try:
            _check_types(known)
        except TaskError as error:
            raise FormatError(f"not a task: {error}") from error
        return _SLOTS.filled(known)


def _check_types(known: dict[str, Any]) -> None:
    """Check the type of each field, and make the deadline a number."""
    if flaws := [*_wrong_types(known).values(), *_wrong_deadline(known)]:
        raise TaskError(*flaws)


def _wrong_values(known: dict[str, Any]) -> list[str]:
    """What is wrong with the fields, and makes the deadline a number."""
    wrong = _wrong_types(known)
    sound = {name: value for name, value in known.items() if name not in wrong} if wrong else known
    others = (*_wrong_sample(sound), *_wrong_run(sound), *_wrong_deadline(sound))
    flaws = [*wrong.values(), *others]
    # What an agent answered may be what no sender may write: NUL, or deeper levels.
    written = {**sound, "answered": None} if "answered" in sound else sound
    if TASKS.flaw(written):
        return flaws + [f for name, value in written.items() if (f := TASKS.flaw(value, name, 1))]
    return [*flaws, *_too_large(sound)]


def _too_large(known: dict[str, Any]) -> Iterator[str]:
    for name, limit in MAX_FIELD_BYTES.items():
        try:
            size = len(orjson.dumps(known[name])) if known.get(name) else 0
        except TypeError:
            continue  # No JSON, which encoding says.
        if size > limit:
            yield f"{name}: it has {size:,} bytes, {limit:,} are allowed: send an address instead"


def _wrong_types(known: dict[str, Any]) -> dict[str, str]:
    return {
        name: f"{name}: expected {_CHECKS[name][0]}, got {kind_of(value)}"
        for name, value in known.items()
        if not _CHECKS[name][1](value)
    }


def _wrong_sample(known: dict[str, Any]) -> Iterator[str]:
    """The sample must be one of its group."""
    index, size = known.get("sample_index"), known.get("group_size")
    if size is not None and size < 1:
        yield f"group_size: expected at least 1, got {size}"
    elif index is not None and (index < 0 or (size is not None and index >= size)):
        expected = "at least 0" if size is None else f"0 to {size - 1}, as group_size is {size}"
        yield f"sample_index: expected {expected}; got {index}"


def _wrong_run(known: dict[str, Any]) -> Iterator[str]:
    """A run's tasks are known by their ids, also where nothing else of them is."""
    run, task_id = known.get("run"), known.get("task_id")
    if run and task_id and not is_of_run(task_id, run):
        yield f"run: an id in run {run!r} begins with {prefix_of(run)!r}; got {task_id!r}"


def _wrong_deadline(known: dict[str, Any]) -> Iterator[str]:
    if isinstance(known.get("deadline"), (str, int, float)):
        try:
            known["deadline"] = _timestamp(known["deadline"])
        except TaskError as error:
            yield str(error)


def kind_of(value: Any) -> str:
    """What a JSON value is, for an error: the value where it is short, else its type."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
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
    return value is None or (isinstance(value, str) and len(value) <= MAX_ID)


def _or_null(accepts: Any) -> Any:
    return lambda value: value is None or accepts(value)


_CHECKS: dict[str, tuple[str, Any]] = {
    "question": ("a string", _is_text),
    "category": ("a string", _is_text),
    "output_format": ("an object", _is_object),
    "mcp_servers": ("a list of objects", _is_objects),
    "use_specified_server": ("true or false", lambda value: isinstance(value, bool)),
    "evaluators": ("a list of objects", _is_objects),
    "prepares": ("a list of objects", _is_objects),
    "cleanups": ("a list of objects", _is_objects),
    "task_id": ("a string of at most 256 characters", lambda v: v is not None and _is_id(v)),
    "metadata": ("an object", _is_object),
    "group_id": ("a string of at most 256 characters", _is_id),
    "sample_index": ("an integer", _or_null(_is_int)),
    "group_size": ("an integer", _or_null(_is_int)),
    "group_need": ("an integer", _or_null(_is_int)),
    "group_repairs": ("an integer", _or_null(_is_int)),
    "policy_version": (
        "an integer or a string of at most 256 characters",
        _or_null(lambda v: _is_id(v) or _is_int(v)),
    ),
    "seed": ("an integer", _or_null(_is_int)),
    "sampling": ("an object", _is_object),
    "priority": ("an integer", _is_int),
    "deadline": (
        "Unix seconds, or ISO 8601 with a zone",
        _or_null(lambda v: _is_text(v) or _is_int(v) or isinstance(v, float)),
    ),
    "replay_of": ("a string of at most 256 characters", _is_id),
    "run": (RUN_NAME, lambda value: value is None or is_run_name(value)),
    "retry_of": ("a string of at most 256 characters", _is_id),
    "answered": ("an object", _or_null(_is_object)),
    "spent_before": ("an object", _or_null(_is_object)),
    "config_hash": ("a string", _or_null(_is_text)),
    "dramatiq": ("an object", _or_null(_is_object)),
}

_SLOTS = Slots(Task)
_DEFAULTS = asdict(Task())  # In the order of ``_SLOTS``.
# Objects and lists: other values are never changed, so that copies share them.
_CHANGEABLE = tuple(
    each.name for each in fields(Task) if any(kind in each.type for kind in ("dict", "list"))
)
# What senders write: a key of theirs that is like another field is their own.
_WRITTEN = [name for name in _CHECKS if name not in ("answered", "spent_before", "dramatiq")]


def _misspelt(data: dict[Any, Any]) -> Iterator[str]:
    for name in data:
        if not isinstance(name, str):
            yield f"keys must be strings, got {kind_of(name)}"
        elif name not in _CHECKS and (near := nearest(name, _WRITTEN, MISSPELT)):
            yield f"unknown key {name!r}: did you mean {near!r}?"


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
        raise TaskError(f"deadline: {value!r} is not a time: {error}") from error
    return float(value)


def refuse_other_schemas(data: Any, noun: str) -> None:
    """Raise ``FormatError`` unless ``data`` is an object of this version's schema."""
    if not isinstance(data, dict):
        raise FormatError(f"not a {noun}: expected an object, got {kind_of(data)}")
    schema = data.get("schema")
    if schema != SCHEMA:
        raise FormatError(
            f"a {noun} of schema {schema!r:.40}; this agentpipe reads schema {SCHEMA}: "
            "upgrade the older side"
        )
