"""Groups: the samples of one prompt, counted together, and the record that says how they ended."""

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
# What stores count of ended groups: members that train, and all others; and complete groups that a
# trainer has not used.
MEMBERS = ("counted", "wasted")
UNUSED = ("flat", "stale")
# They ended without judgement: neither the agent nor its policy is to blame.
UNJUDGED = ("infra_error", "eval_error", "crashed")
# A record of the stream that begins like this is a group's, and no Result.
_MARK = b'{"kind":"group"'
_REPAIR = "~"
_NAMES_GROUP = b'"group_id":"'


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """How a group ended: one record in the stream, after the Result of its last member.

    Attributes:
        status: ``complete`` with as many goods as it needs, else ``cancelled`` where a member was
            cancelled, else ``short``.
        good: Members whose reward is trustworthy, and whose rollout is exact where it has to be.
        members: The ids of the tasks that count; of a member that was repaired, its last one.
        versions: The oldest and the newest policy version of the goods; empty if unknown.
    """

    group_id: str
    status: GroupStatus
    good: int
    members: tuple[str, ...]
    versions: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The wire form."""
        return orjson.dumps({"kind": "group", "schema": 1, **asdict(self)})

    @classmethod
    def decode(cls, payload: bytes) -> GroupEnd:
        """Read what ``encode`` wrote; keys added by later versions are dropped.

        Raises:
            FormatError: It is malformed.
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
    """Whether a record of a stream says how a group ended, and so is not a Result."""
    return isinstance(payload, bytes) and payload.startswith(_MARK)


def group_in(payload: bytes) -> str | None:
    """The group of an encoded Result or of a group's record; None for what is in none."""
    if _NAMES_GROUP not in payload:  # To read a large Result takes a while.
        return None
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    name = found.get("group_id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def is_good(result: Result) -> bool:
    """Whether a group counts this member towards what it needs.

    Where ids are required, a rollout that its sink has cut is worth nothing to a trainer. Others
    may write into a stream: one without a reward must not be taken for one with 0.
    """
    rollout = result.rollout or {}
    is_usable = rollout.get("required") is not True or rollout.get("exact") is True
    return result.reward_trustworthy and result.reward is not None and is_usable


def status_of(good: int, need: int, *, cancelled: bool) -> GroupStatus:
    """The status of a group that has ended."""
    if good >= need:
        return "complete"
    return "cancelled" if cancelled else "short"


def versions_of(results: Iterable[Result]) -> tuple[int, ...]:
    """The oldest and the newest policy version that these were sampled with; empty if unknown."""
    found = [each for result in results for each in _versions(result) if isinstance(each, int)]
    return (min(found), max(found)) if found else ()


def _versions(result: Result) -> list[Any]:
    recorded = result.rollout.get("versions") if result.rollout else None
    return recorded if isinstance(recorded, list) and recorded else [result.policy_version]


def repair_of(task: Task) -> Task | None:
    """The same task once more, with an id of its own; None where that would be too long."""
    root, number = task.task_id, 0
    if task.retry_of and task.task_id.startswith(f"{task.retry_of}{_REPAIR}"):
        suffix = task.task_id.removeprefix(f"{task.retry_of}{_REPAIR}")
        if suffix.isdecimal():
            root, number = task.retry_of, int(suffix)
    task_id = f"{root}{_REPAIR}{number + 1}"
    if len(task_id) > MAX_ID:
        return None
    return replace(task, task_id=task_id, retry_of=root, answered=None)
