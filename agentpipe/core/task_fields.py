"""Task fields: the valid values of each, and what is wrong with invalid ones."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.did_you_mean import MISSPELT, nearest
from agentpipe.core.json_values import JsonRules
from agentpipe.core.masking import shorten
from agentpipe.core.numbers import is_integer
from agentpipe.core.run_names import RUN_NAME, is_of_run, is_run_name, prefix_of
from agentpipe.core.timestamps import utc
from agentpipe.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_DEPTH = 50
MAX_ID = 256
# Fields that a Result repeats must fit in a sink's record with the answer; Kafka's limit is 1 MB.
MAX_FIELD_BYTES = {"metadata": 512 * 1024, "sampling": 64 * 1024, "category": 1_024}
# Fields with checks beyond their types.
_TOGETHER = frozenset({"sample_index", "group_size", "run", "deadline"})
# Fields that name something: an empty name is a sender's mistake.
_NAMES = ("group_id", "policy_version", "replay_of", "retry_of")
# Strings of at most ``MAX_ID`` characters.
_BOUNDED = frozenset({"task_id", *_NAMES})
EMPTY = "it is empty; give one, or leave the key out"
TASKS = JsonRules(MAX_DEPTH, other_types=True, nul=False)


def wrong_values(known: dict[str, Any]) -> list[str]:
    """Return what is wrong with the fields, and convert the deadline to a number."""
    wrong = wrong_types(known)
    sound = {name: value for name, value in known.items() if name not in wrong} if wrong else known
    flaws = list(wrong.values())
    flaws += [f"{name}: {EMPTY}" for name in _NAMES if known.get(name) == ""]
    if not _TOGETHER.isdisjoint(sound):
        flaws += [*_wrong_sample(sound), *_wrong_run(sound), *wrong_deadline(sound)]
    # An agent's answer can contain what a sender cannot write: NUL, or deeper nesting.
    written = {**sound, "answered": None} if "answered" in sound else sound
    if TASKS.flaw(written):
        flaws += [f for name, value in written.items() if (f := TASKS.flaw(value, name, 1))]
    return flaws


def too_large(fields: Mapping[str, Any], size: int) -> list[str]:
    """Return fields that exceed their size limit, in a task of ``size`` bytes."""
    flaws = []
    for name, limit in MAX_FIELD_BYTES.items():
        if size > limit and fields.get(name) and (found := len(orjson.dumps(fields[name]))) > limit:
            sizes = f"it has {found:,} bytes, {limit:,} are allowed"
            flaws.append(f"{name}: {sizes}: send an address instead")
    return flaws


def wrong_types(known: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with each field of the wrong type, by field name."""
    return {
        name: f"{name}: expected {CHECKS[name][0]}, got {_shown(name, value)}"
        for name, value in known.items()
        if not CHECKS[name][1](value)
    }


def _shown(name: str, value: Any) -> str:
    """Describe a value by what is wrong with it: its type, length, or an item."""
    if isinstance(value, str) and name == "run":
        return ascii(shorten(value, 80, "..."))
    if isinstance(value, str) and name in _BOUNDED:
        return f"one of {len(value):,}"
    if isinstance(value, list) and CHECKS[name][1]([]):
        return f"{next(kind_of(item) for item in value if not isinstance(item, dict))} in it"
    return kind_of(value)


def _wrong_sample(known: dict[str, Any]) -> Iterator[str]:
    """Check that the sample index is within its group."""
    index, size = known.get("sample_index"), known.get("group_size")
    if size is not None and size < 1:
        yield f"group_size: expected at least 1, got {size}"
    elif index is not None and (index < 0 or (size is not None and index >= size)):
        expected = "at least 0" if size is None else f"0 to {size - 1}, as group_size is {size}"
        yield f"sample_index: expected {expected}; got {index}"


def _wrong_run(known: dict[str, Any]) -> Iterator[str]:
    """Check that the task id starts with its run: often only the id is known."""
    run, task_id = known.get("run"), known.get("task_id")
    if run and task_id and not is_of_run(task_id, run):
        yield f"run: an id in run {run!r} begins with {prefix_of(run)!r}; got {task_id!r}"


def wrong_deadline(known: dict[str, Any]) -> Iterator[str]:
    """Return what is wrong with the deadline; convert a valid one to a number."""
    if isinstance(known.get("deadline"), (str, int, float)):
        try:
            known["deadline"] = _timestamp(known["deadline"])
        except TaskError as error:
            yield str(error)


def kind_of(value: Any) -> str:
    """Describe a JSON value for an error: numbers and booleans by value, others by type."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    if isinstance(value, (bool, int, float)):
        return repr(value)
    return names.get(type(value), type(value).__name__)


def _is_int(value: Any) -> bool:
    return is_integer(value) and -(2**63) <= value < 2**63


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


CHECKS: dict[str, tuple[str, Any]] = {
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

# Fields that only agentpipe sets: those of its own Tasks, such as the replay of a dead letter, and
# of the groups that the broker counts.
OURS = frozenset({"answered", "spent_before", "dramatiq", "group_need", "group_repairs"})
# Fields that senders write: only keys similar to these are treated as misspelt.
_WRITTEN = [name for name in CHECKS if name not in OURS]


def misspelt(data: dict[Any, Any]) -> Iterator[str]:
    """Return misspelt keys; other unknown keys can be the sender's own."""
    for name in data:
        if not isinstance(name, str):
            yield f"keys must be strings, got {kind_of(name)}"
        elif name not in CHECKS and (near := nearest(name, _WRITTEN, MISSPELT)):
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
        utc(value)  # Must be displayable.
    except (ValueError, OverflowError, OSError) as error:
        raise TaskError(f"deadline: {value!r} is not a time: {error}") from error
    return float(value)
