"""Keys: which partition a record goes to, and whose it is.

All of a group of samples has its key, and so is in one partition, in the order in which it was
delivered: one reader gets all of it. The task's id is in a header then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.groups import group_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.sinks.base import Record

TASK_ID = "task_id"


def place_of(record: Record) -> dict[str, Any]:
    """The producer's arguments for a record."""
    group = group_in(record.payload)
    task_id = record.task_id.encode()
    if group is None:
        return {"key": task_id}
    return {"key": group.encode(), "headers": [(TASK_ID, task_id)]}


def task_id_of(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> str:
    """The id of a record's task; of what others have written, whatever its key is."""
    named = next((value for name, value in headers if name == TASK_ID), None)
    return (named or key or b"").decode(errors="backslashreplace")
