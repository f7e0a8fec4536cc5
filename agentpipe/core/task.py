"""Task: what travels from a sender to a worker.

It travels as JSON with a ``schema`` number. A reader refuses a number that it does not know
instead of guessing what the fields mean.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.run_names import prefix_of
from agentpipe.core.slots import Slots
from agentpipe.core.task_fields import (
    CHECKS,
    kind_of,
    misspelt,
    too_large,
    wrong_deadline,
    wrong_types,
    wrong_values,
)
from agentpipe.errors import FormatError, TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
MAX_TASK_BYTES = 10 * 1024 * 1024
# With the answer and the trace of an earlier run, or what it cost.
MAX_CARRIED_BYTES = 128 * 1024 * 1024
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


# Of ids to come: a sender of thousands would ask the system for each, and pause for it. A fork
# draws its own.
_ID_DIGITS, _DRAWN_TOGETHER = 20, 256
_drawn: deque[str] = deque()
os.register_at_fork(after_in_child=_drawn.clear)


def new_id() -> str:
    """A unique id that sorts by its time of creation, so that index pages stay local."""
    try:
        digits = _drawn.popleft()
    except IndexError:
        digits = _draw()
    return f"{time.time_ns() // 1_000_000:012x}{digits}"


def _draw() -> str:
    """The random digits of one id; those of others are kept."""
    found = os.urandom(_ID_DIGITS // 2 * _DRAWN_TOGETHER).hex()
    digits, *others = (found[at : at + _ID_DIGITS] for at in range(0, len(found), _ID_DIGITS))
    _drawn.extend(others)
    return digits


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
        """Check ``data``, see ``checked``, and build the Task.

        Raises:
            TaskError: With each mistake: the field, what is wrong with it and what is right.
        """
        fields, _ = checked(data, give_id=give_id)
        return cls.of(fields)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Task:
        """The task with these fields, which are known to be valid."""
        return _SLOTS.filled(fields)

    def encode(self) -> bytes:
        """See ``encode_fields``."""
        return encode_fields(dict(zip(_DEFAULTS, _SLOTS.values(self), strict=True)))

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

    def unshared(self) -> Task:
        """The same, with empty lists and objects of its own."""
        values = ((name, getattr(self, name)) for name in _CHANGEABLE)
        own = {name: type(it)() for name, it in values if it is not None and not it}
        return _SLOTS.changed(self, own)

    @classmethod
    def decode(cls, data: Any, *, shared: bool = False) -> Task:
        """Read what ``encode`` wrote, already parsed; for ``shared`` see ``Slots.filled``.

        Its sender checked it: here only what a run relies on is checked again, the type of each
        field, since others may write to a queue.

        Raises:
            FormatError: It is of another schema, or no Task at all.
        """
        refuse_other_schemas(data, "task")
        known = {name: value for name, value in data.items() if name in CHECKS}
        try:
            _check_types(known)
        except TaskError as error:
            raise FormatError(f"not a task: {error}") from error
        return _SLOTS.filled(known, shared=shared)


def _check_types(known: dict[str, Any]) -> None:
    """Check the type of each field, and make the deadline a number."""
    if flaws := [*wrong_types(known).values(), *wrong_deadline(known)]:
        raise TaskError(*flaws)


_SLOTS = Slots(Task)
_DEFAULTS = asdict(Task())  # In the order of ``_SLOTS``.


def _head(task_id: str) -> bytes:
    """What the wire form of a task with this id begins with."""
    return b"%b%b" % (_HEAD, orjson.dumps(task_id))


_HEAD = orjson.dumps({"schema": SCHEMA, "task_id": ""})[:-3]


def checked(data: Any, *, give_id: bool = False) -> tuple[dict[str, Any], bytes]:
    """Check ``data`` (a dict, a string that is the question, or a Task).

    Returns the fields that it gives, and the wire form of the task. With
    ``give_id`` a task without an id gets a new one. Unknown keys are dropped, as MCP-Universe does,
    unless one looks like a misspelt field.

    Raises:
        TaskError: With each mistake: the field, what is wrong with it and what is right.
    """
    fields, flaws = _known(data)
    flaws += wrong_values(fields)
    if flaws:
        raise TaskError(*flaws)
    if give_id and not fields.get("task_id"):
        prefix = prefix_of(fields["run"]) if fields.get("run") else ""
        fields["task_id"] = f"{prefix}{new_id()}"
    encoded = _wire(fields)
    if flaws := too_large(fields, len(encoded)):
        raise TaskError(*flaws)
    return fields, _of_size(encoded, fields)


def _known(data: Any) -> tuple[dict[str, Any], list[str]]:
    """What ``data`` says of a task's fields, and what is wrong with its other keys."""
    if isinstance(data, str):
        return {"question": data}, []
    if isinstance(data, Task):
        return asdict(data), []
    if not isinstance(data, dict):
        raise TaskError(f"a task is a JSON object or a string, not {kind_of(data)}")
    empty = data.get("task_id") == ""
    flaws = ["task_id: it is empty; give one, or leave the key out"] if empty else []
    known = {name: value for name, value in data.items() if name in CHECKS}
    if len(known) < len(data):
        flaws += misspelt(data)
    return known, flaws


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """The wire form: ``schema`` and each field that differs from its default.

    Raises:
        TaskError: It is larger than ``MAX_TASK_BYTES``, or holds what JSON cannot.
    """
    return _of_size(_wire(fields), fields)


def beyond_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Each field that differs from its default."""
    return {name: value for name, value in fields.items() if value != _DEFAULTS[name]}


def _wire(fields: Mapping[str, Any]) -> bytes:
    # The id first, where ``encode_with`` finds it.
    task_id = fields.get("task_id")
    wire = {"schema": SCHEMA, "task_id": task_id} if task_id else {"schema": SCHEMA}
    wire |= beyond_defaults(fields)
    try:
        return orjson.dumps(wire)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise TaskError(f"the task is not JSON: {error}") from error


def encode_with(encoded: bytes, fields: Mapping[str, Any], more: Mapping[str, Any]) -> bytes:
    """The wire form of a task with ``more`` fields; ``encoded`` is that with ``fields`` alone.

    Faster where the task has none of them but its id.
    """
    new = {name: v for name, v in more.items() if v != fields.get(name, _DEFAULTS[name])}
    if not new:
        return encoded
    if new.get("task_id") and encoded.startswith(head := _head(fields.get("task_id", ""))):
        encoded = _head(new.pop("task_id")) + encoded[len(head) :]
    if not new.keys().isdisjoint(fields):
        return encode_fields({**fields, **more})
    added = b"%b,%b" % (encoded[:-1], orjson.dumps(new)[1:]) if new else encoded
    return _of_size(added, fields)


def encode_stamped(encoded: bytes, fields: Mapping[str, Any], config_hash: str) -> bytes:
    """``encode_with`` this ``config_hash`` alone, which many tasks share."""
    if "config_hash" in fields:
        return encode_with(encoded, fields, {"config_hash": config_hash or None})
    return _of_size(encoded[:-1] + _stamp(config_hash), fields)


@lru_cache(maxsize=64)
def _stamp(config_hash: str) -> bytes:
    """What the wire form of a task ends with that has no other stamp."""
    return b',"config_hash":%b}' % orjson.dumps(config_hash) if config_hash else b"}"


def _of_size(encoded: bytes, fields: Mapping[str, Any]) -> bytes:
    if len(encoded) > MAX_TASK_BYTES:
        has_run = fields.get("answered") is not None or fields.get("spent_before") is not None
        if not has_run or len(encoded) > MAX_CARRIED_BYTES:
            raise TaskError(
                f"the task has {len(encoded):,} bytes, {MAX_TASK_BYTES:,} are allowed: "
                "put large inputs in a file or a bucket and send its address"
            )
    return encoded


# Objects and lists: other values are never changed, so that copies share them.
_CHANGEABLE = tuple(
    each.name for each in fields(Task) if any(kind in each.type for kind in ("dict", "list"))
)


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
