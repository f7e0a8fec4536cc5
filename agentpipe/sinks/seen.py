"""Seen: the submissions whose Results a stream has delivered.

An id can be reused once its broker has forgotten it: that is a new submission, and its Result is
not a repeat. Repeats of one submission come from a crash between publish and drop.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from agentpipe.core.result import Result
from agentpipe.errors import FormatError
from agentpipe.sinks.base import KnowsSubmissions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.sinks.base import Reader

# Repeats arrive close together.
REMEMBERED = 200_000


class Seen:
    """Bounded: the oldest entries are forgotten."""

    def __init__(self, reader: Reader, known: Iterable[str] = ()) -> None:
        """``known`` are ids of tasks whose next Result is a repeat."""
        self._reader = reader if isinstance(reader, KnowsSubmissions) else None
        self._known = set(known)
        self._given = OrderedDict[tuple[str, str | None], None]()
        self._recalled = OrderedDict[str, None]()

    def recall(self, task_ids: Iterable[str]) -> None:
        """Add tasks with a Result that other readers of the group have used."""
        for task_id in task_ids:
            _remember(self._recalled, task_id)

    def is_recalled(self, task_id: str) -> bool:
        """Whether other readers of the group have used a Result of this task."""
        return task_id in self._recalled

    def is_repeat(self, result: Result) -> bool:
        """Whether the Result's submission was delivered before; also records this one."""
        key = result.task_id, submission_of(result)
        if key in self._given:
            return True
        _remember(self._given, key)
        return self._was_known(result.task_id) or self._was_recalled(*key)

    def _was_known(self, task_id: str) -> bool:
        if task_id not in self._known:
            return False
        self._known.discard(task_id)
        return True

    def _was_recalled(self, task_id: str, submission: str | None) -> bool:
        if task_id not in self._recalled:
            return False
        return self._reader is None or submission in self._reader.submissions(task_id)


def submission_of(result: Result) -> str | None:
    """The submission time, which distinguishes submissions of one id; None if nothing does.

    A replay's id is derived from the dead letter, so all its submissions count as one.
    """
    return None if result.replay_of else result.submitted_at


def submission_in(payload: bytes) -> str | None:
    """``submission_of`` for an encoded Result; None if the payload is not a Result."""
    try:
        return submission_of(Result.decode(payload))
    except FormatError:
        return None


def _remember(entries: OrderedDict[Any, None], key: Any) -> None:
    entries[key] = None
    if len(entries) > REMEMBERED:
        entries.popitem(last=False)
