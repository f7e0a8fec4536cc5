"""Ids of a file's tasks: one that means two tasks would leave one of them unsent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from agentpipe.sending.run_tasks import key_of, looks_like_a_line

if TYPE_CHECKING:
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.admission import AdmittedTask

# Of larger files only so many are compared: each takes some hundred bytes.
MAX_IDS = 1_000_000


class _Seen(NamedTuple):
    """A task that an id belongs to.

    Attributes:
        named: Whether its file gives it the id; else it has it by its line.
        digest: Of what it asks.
    """

    file: str
    line: int
    named: bool
    digest: int


class TaskIds:
    """Compares each task of a file, or of a benchmark's files, with those before it."""

    def __init__(self, rules: TaskRules) -> None:
        self._by_line = rules.plan is not None
        self._known: dict[str, _Seen] = {}

    def problems(self, admitted: AdmittedTask, file: str, number: int) -> list[str]:
        """Why the id cannot be the task's, a sentence each; the same task again is a duplicate.

        ``number`` is what a run calls a task without an id by.
        """
        key = key_of(replace(admitted, line=number))
        if not (admitted.named or (self._by_line and looks_like_a_line(key))):
            return []
        ours = _Seen(file, admitted.line, admitted.named, hash(admitted.payload))
        first = self._known.get(key)
        if first is None:
            if len(self._known) < MAX_IDS:
                self._known[key] = ours
            return []
        return self._clash(key, first, ours)

    def _clash(self, key: str, first: _Seen, ours: _Seen) -> list[str]:
        place = f"line {first.line}" if first.file == ours.file else f"{first.file}:{first.line}"
        if first.named and ours.named:
            same = first.digest == ours.digest
            wrong = f"task_id: {key!r} is that of another task, in {place}: give each its own"
            return [] if same else [wrong]
        if first.named == ours.named:
            return []  # Unnamed tasks of two files: each file counts its lines.
        this, that = ("has this id", "has none") if ours.named else ("has none", "has this id")
        pair = f"this one {this}, that in {place} {that}"
        wrong = f"task_id: {key!r} would be two tasks, as a run counts lines: {pair}"
        return [f"{wrong}: give each task an id, or none"]
