"""Task: what travels from a sender to a worker.

It travels as JSON with a ``schema`` number. A reader refuses a number that it does not know
instead of guessing what the fields mean.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.run_names import prefix_of
from agentpipe.core.slots import Slots
from agentpipe.core.task_fields import (
    CHECKS,
    kind_of,
    misspelt,
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
        known = {name: value for name, value in data.items() if name in CHECKS}
        if len(known) < len(data):
            flaws += misspelt(data)
        flaws += wrong_values(known)
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
            # The id first, where ``encode_with`` finds it.
            head = (
                {"schema": SCHEMA, "task_id": self.task_id} if self.task_id else {"schema": SCHEMA}
            )
            data = orjson.dumps({**head, **wire})
        except (TypeError, orjson.JSONEncodeError) as error:
            raise TaskError(f"the task is not JSON: {error}") from error
        return self._of_size(data)

    def encode_with(self, encoded: bytes, fields: Mapping[str, Any]) -> bytes:
        """``encode`` of the task with other ``fields``.

        Faster where ``encoded``, the task as it is, has none of them but its id.
        """
        new = {name: value for name, value in fields.items() if value != getattr(self, name)}
        if new.get("task_id") and encoded.startswith(head := _head(self.task_id)):
            encoded = _head(new.pop("task_id")) + encoded[len(head) :]
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
        known = {name: value for name, value in data.items() if name in CHECKS}
        try:
            _check_types(known)
        except TaskError as error:
            raise FormatError(f"not a task: {error}") from error
        return _SLOTS.filled(known)


def _check_types(known: dict[str, Any]) -> None:
    """Check the type of each field, and make the deadline a number."""
    if flaws := [*wrong_types(known).values(), *wrong_deadline(known)]:
        raise TaskError(*flaws)


_SLOTS = Slots(Task)
_DEFAULTS = asdict(Task())  # In the order of ``_SLOTS``.


def _head(task_id: str) -> bytes:
    """What the wire form of a task with this id begins with."""
    return orjson.dumps({"schema": SCHEMA, "task_id": task_id})[:-1]


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
