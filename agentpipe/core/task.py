"""Task: what a sender sends to a worker.

It is sent as JSON with a ``schema`` number. A reader rejects an unknown schema instead of guessing
what the fields mean.
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
    EMPTY,
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
# For a task that carries the answer, trace or cost of an earlier run.
MAX_CARRIED_BYTES = 128 * 1024 * 1024
# The fields that a Result repeats as its ``task``. Other fields have their own place in the Result,
# or do not outlive the run.
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


# Random digits for future ids, drawn in batches: one system call per id would slow down a sender of
# thousands. A fork clears them and draws its own.
_ID_DIGITS, _DRAWN_TOGETHER = 20, 256
_drawn: deque[str] = deque()
os.register_at_fork(after_in_child=_drawn.clear)


def new_id() -> str:
    """Return a unique id that sorts by creation time, so that index pages stay local."""
    try:
        digits = _drawn.popleft()
    except IndexError:
        digits = _draw()
    return f"{time.time_ns() // 1_000_000:012x}{digits}"


def _draw() -> str:
    """Draw random digits for many ids; return those of one id and keep the rest."""
    found = os.urandom(_ID_DIGITS // 2 * _DRAWN_TOGETHER).hex()
    digits, *others = (found[at : at + _ID_DIGITS] for at in range(0, len(found), _ID_DIGITS))
    _drawn.extend(others)
    return digits


@dataclass(frozen=True, slots=True)
class Task:
    """A question for an agent, with everything that travels with it.

    The fields from ``category`` to ``cleanups`` are MCP-Universe's ``TaskConfig``.

    Attributes:
        task_id: A task id is accepted only once; ``send`` generates one if it is empty.
        metadata: The sender's own, copied to the Result.
        group_id: Ties the samples of one prompt together, with ``sample_index`` (from 0) and
            ``group_size``.
        group_need: Number of good samples that the group needs; the broker counts them, see
            ``send_group``.
        group_repairs: How many samples that ended without a judgement can be replaced.
        policy_version: The sender's label of the weights or prompt that produced the task.
        seed: For this sample's model calls.
        sampling: Other settings of the model calls, such as ``temperature``; they override
            those of the agent.
        priority: Lower numbers run first, as in Dramatiq.
        deadline: Unix seconds; a task that starts later ends as ``stale``.
        replay_of: The dead task that this one replays.
        run: The run that the task belongs to; its id starts with the run's name, see
            ``run_names``.
        retry_of: The finished task that this one repeats.
        answered: The answer of an earlier run that only needs evaluation; set by workers.
        spent_before: Summed cost of the task's earlier runs; set by workers.
        config_hash: Fingerprint of the sender's collection; set by the dispatcher.
        dramatiq: Options of the Dramatiq message that sent the task, such as the next message
            of its pipeline.
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
        """Check ``data`` as ``checked`` does, and build the Task.

        Raises:
            TaskError: Lists each mistake: the field, what is wrong and what is expected.
        """
        fields, _ = checked(data, give_id=give_id)
        return cls.of(fields)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Task:
        """Build a task from fields that are known to be valid."""
        return _SLOTS.filled(fields)

    def encode(self) -> bytes:
        """Return the wire form; see ``encode_fields``."""
        return encode_fields(dict(zip(_DEFAULTS, _SLOTS.values(self), strict=True)))

    def changed(self, **fields: Any) -> Task:
        """Do the same as ``dataclasses.replace``, in a third of the time."""
        return _SLOTS.changed(self, fields)

    def as_sent(self) -> dict[str, Any]:
        """Return the fields in ``ASKED`` that differ from their defaults, for the Result.

        Values are shared, not copied.
        """
        values = ((name, getattr(self, name)) for name in ASKED)
        return {name: value for name, value in values if value != _DEFAULTS[name]}

    def copy(self) -> Task:
        """Return a deep copy; mutable values are copied through JSON, which is faster."""
        own = {name: getattr(self, name) for name in _CHANGEABLE}
        return _SLOTS.changed(self, orjson.loads(orjson.dumps(own)))

    def unshared(self) -> Task:
        """Return the same task with its own empty lists and objects."""
        values = ((name, getattr(self, name)) for name in _CHANGEABLE)
        own = {name: type(it)() for name, it in values if it is not None and not it}
        return _SLOTS.changed(self, own)

    @classmethod
    def decode(cls, data: Any, *, shared: bool = False) -> Task:
        """Read parsed output of ``encode``; for ``shared`` see ``Slots.filled``.

        The sender has validated the task. Only the field types, which a run relies on, are checked
        again, since anything can write to a queue.

        Raises:
            FormatError: The data has another schema, or is not a Task.
        """
        refuse_other_schemas(data, "task")
        known = {name: value for name, value in data.items() if name in CHECKS}
        try:
            _check_types(known)
        except TaskError as error:
            raise FormatError(f"not a task: {error}") from error
        return _SLOTS.filled(known, shared=shared)


def _check_types(known: dict[str, Any]) -> None:
    """Check the type of each field, and convert the deadline to a number."""
    if flaws := [*wrong_types(known).values(), *wrong_deadline(known)]:
        raise TaskError(*flaws)


_SLOTS = Slots(Task)
_DEFAULTS = asdict(Task())  # In the order of ``_SLOTS``.


def _head(task_id: str) -> bytes:
    """Return the first bytes of the wire form of a task with this id."""
    return b"%b%b" % (_HEAD, orjson.dumps(task_id))


_HEAD = orjson.dumps({"schema": SCHEMA, "task_id": ""})[:-3]


def checked(data: Any, *, give_id: bool = False) -> tuple[dict[str, Any], bytes]:
    """Check ``data`` (a dict, a string that is the question, or a Task).

    Returns the fields that are set, and the task's wire form. With ``give_id``, a task without an
    id gets a new one. Unknown keys are dropped, as MCP-Universe does, unless one looks like a
    misspelt field.

    Raises:
        TaskError: Lists each mistake: the field, what is wrong and what is expected.
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
    """Return the task fields in ``data``, and what is wrong with its other keys."""
    if isinstance(data, str):
        return {"question": data}, []
    if isinstance(data, Task):
        return asdict(data), []
    if not isinstance(data, dict):
        raise TaskError(f"a task is a JSON object or a string, not {kind_of(data)}")
    empty = data.get("task_id") == ""
    flaws = [f"task_id: {EMPTY}"] if empty else []
    known = {name: value for name, value in data.items() if name in CHECKS}
    if len(known) < len(data):
        flaws += misspelt(data)
    return known, flaws


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """Return the wire form: ``schema``, and each field that differs from its default.

    Raises:
        TaskError: The task is larger than ``MAX_TASK_BYTES``, or contains a value that is not JSON.
    """
    return _of_size(_wire(fields), fields)


def beyond_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    return {name: value for name, value in fields.items() if value != _DEFAULTS[name]}


def _wire(fields: Mapping[str, Any]) -> bytes:
    # The id comes first, where ``encode_with`` expects it.
    task_id = fields.get("task_id")
    wire = {"schema": SCHEMA, "task_id": task_id} if task_id else {"schema": SCHEMA}
    wire |= beyond_defaults(fields)
    try:
        return orjson.dumps(wire)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise TaskError(f"the task is not JSON: {error}") from error


def encode_with(encoded: bytes, fields: Mapping[str, Any], more: Mapping[str, Any]) -> bytes:
    """Add ``more`` fields to the wire form ``encoded``, which holds ``fields`` only.

    Faster if ``more`` changes none of ``fields`` except the id.
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
    """Add only this ``config_hash`` to the wire form; faster, since many tasks share the hash."""
    if "config_hash" in fields:
        return encode_with(encoded, fields, {"config_hash": config_hash or None})
    return _of_size(encoded[:-1] + _stamp(config_hash), fields)


@lru_cache(maxsize=64)
def _stamp(config_hash: str) -> bytes:
    """Return the end of the wire form of a task that has no other config hash."""
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


# Objects and lists. Other values are immutable, so copies share them.
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
