"""Seen: the submissions whose Results a stream has given.

An id may be used again once its broker has forgotten it: that is another submission, and its Result
is not a repeat. Repeats of one submission come from a crash between publishing and dropping.
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

# Repeats are close together.
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
        """Tasks of which the group's other readers have used a Result."""
        for task_id in task_ids:
            _remember(self._recalled, task_id)

    def is_recalled(self, task_id: str) -> bool:
        """Whether the group's other readers have used a Result of this task."""
        return task_id in self._recalled

    def is_repeat(self, result: Result) -> bool:
        """Whether the Result's submission was given before; from now on it was."""
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
    """What tells the submissions of one id apart; None if nothing does.

    An id of a replay is derived from the dead letter, so that all its submissions are one.
    """
    return None if result.replay_of else result.submitted_at


def submission_in(payload: bytes) -> str | None:
    """The same of an encoded Result; None for what is not a Result."""
    try:
        return submission_of(Result.decode(payload))
    except FormatError:
        return None


def _remember(entries: OrderedDict[Any, None], key: Any) -> None:
    entries[key] = None
    if len(entries) > REMEMBERED:
        entries.popitem(last=False)
