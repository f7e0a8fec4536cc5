"""Groups: the samples of one prompt, counted together, and the record of how they ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from agentpipe.core.task_fields import MAX_ID
from agentpipe.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.core.result import Result
    from agentpipe.core.task import Task

GroupStatus = Literal["complete", "short", "cancelled"]
STATUSES = ("complete", "short", "cancelled")
# Counters that stores keep for ended groups: members used for training and all others, and complete
# groups that a trainer has not used.
MEMBERS = ("counted", "wasted")
UNUSED = ("flat", "stale")
# Outcomes without a judgement: neither the agent nor its policy is to blame.
UNJUDGED = ("infra_error", "eval_error", "crashed")
# A stream record that starts like this is a group record, not a Result.
_MARK = b'{"kind":"group"'
_REPAIR = "~"
_NAMES_GROUP = b'"group_id":"'


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """How a group ended: one record in the stream, after the Result of its last member.

    Attributes:
        status: ``complete`` with enough good members; else ``cancelled`` if a member was cancelled,
            else ``short``.
        good: Number of members with a trustworthy reward and, where required, an exact rollout.
        members: Ids of the tasks that count; for a repaired member, its last task.
        versions: Oldest and newest policy version of the good members; empty if unknown.
    """

    group_id: str
    status: GroupStatus
    good: int
    members: tuple[str, ...]
    versions: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return the wire form."""
        return orjson.dumps({"kind": "group", "schema": 1, **asdict(self)})

    @classmethod
    def decode(cls, payload: bytes) -> GroupEnd:
        """Read the output of ``encode``; keys added by later versions are dropped.

        Raises:
            FormatError: The record is malformed.
        """
        try:
            record = orjson.loads(payload)
            end = cls(
                str(record["group_id"]),
                record["status"],
                int(record["good"]),
                tuple(map(str, record["members"])),
                tuple(map(int, record["versions"])),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not the record of a group: {error}") from error
        if end.status not in STATUSES:
            raise FormatError(f"not the record of a group: status {end.status!r:.40}")
        return end


def is_group_record(payload: object) -> bool:
    """Whether a stream record is a group record rather than a Result."""
    return isinstance(payload, bytes) and payload.startswith(_MARK)


def group_in(payload: bytes) -> str | None:
    """Return the group of an encoded Result or group record; None if it has none."""
    if _NAMES_GROUP not in payload:  # Parsing a large Result is slow.
        return None
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    name = found.get("group_id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def is_good(result: Result) -> bool:
    """Whether a group counts this member towards what it needs.

    If ids are required, a rollout that its sink has cut is useless to a trainer. Streams can
    contain foreign records: a missing reward must not be read as 0.
    """
    rollout = result.rollout or {}
    is_usable = rollout.get("required") is not True or rollout.get("exact") is True
    return result.reward_trustworthy and result.reward is not None and is_usable


def status_of(good: int, need: int, *, cancelled: bool) -> GroupStatus:
    """Return the status of a group that has ended."""
    if good >= need:
        return "complete"
    return "cancelled" if cancelled else "short"


def versions_of(results: Iterable[Result]) -> tuple[int, ...]:
    """Return the oldest and newest policy version that sampled these; empty if unknown."""
    found = [each for result in results for each in _versions(result) if isinstance(each, int)]
    return (min(found), max(found)) if found else ()


def _versions(result: Result) -> list[Any]:
    recorded = result.rollout.get("versions") if result.rollout else None
    return recorded if isinstance(recorded, list) and recorded else [result.policy_version]


def repair_of(task: Task) -> Task | None:
    """Return a copy of the task with a new id to run again; None if that id would be too long."""
    root, number = task.task_id, 0
    if task.retry_of and task.task_id.startswith(f"{task.retry_of}{_REPAIR}"):
        suffix = task.task_id.removeprefix(f"{task.retry_of}{_REPAIR}")
        if suffix.isdecimal():
            root, number = task.retry_of, int(suffix)
    task_id = f"{root}{_REPAIR}{number + 1}"
    if len(task_id) > MAX_ID:
        return None
    return replace(task, task_id=task_id, retry_of=root, answered=None)
