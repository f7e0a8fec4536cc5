"""Recalled: what a group used before this reader came, as far as the reader looks back."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from agentpipe.sinks.seen import REMEMBERED, submission_in

if TYPE_CHECKING:
    from agentpipe.sinks.base import Record


class Recalled:
    """Task ids with their submissions; bounded."""

    def __init__(self) -> None:
        self._submissions: OrderedDict[str, set[str | None]] = OrderedDict()
        self._new: list[str] = []

    def add(self, record: Record) -> None:
        """Add a record that was used before."""
        self._submissions.setdefault(record.task_id, set()).add(submission_in(record.payload))
        self._new.append(record.task_id)
        if len(self._submissions) > REMEMBERED:
            self._submissions.popitem(last=False)

    def take_new(self) -> list[str]:
        """The ids added since the last call."""
        new, self._new = self._new, []
        return new

    def submissions(self, task_id: str) -> set[str | None]:
        """See ``KnowsSubmissions``."""
        return self._submissions.get(task_id, set())
