"""Ids of a file's tasks: if two tasks share an id, one of them is not sent."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import orjson

from agentpipe.core.task import beyond_defaults
from agentpipe.sending.run_tasks import line_key, looks_like_a_line

if TYPE_CHECKING:
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.admission import AdmittedTask

# Larger files are compared only up to this many tasks: each takes some 150 bytes.
MAX_IDS = 500_000


class TaskIds:
    """Compares each task of a file, or of a benchmark's files, with those before it."""

    def __init__(self, rules: TaskRules) -> None:
        self._by_line = rules.plan is not None
        self._files: list[str] = []
        # The number of each id's first task, by the id's hash or, in a run, by the line that the id
        # names. Then, by number: its file and line, and a digest of what the task asks; 0 for a
        # task that gets its id from its line.
        self._numbers: dict[int, int] = {}
        self._places, self._digests = array("q"), array("q")

    def problems(self, admitted: AdmittedTask, file: str, number: int) -> list[str]:
        """Why the task cannot have this id, a sentence each; the same task again is a duplicate.

        ``number`` is the number that a run uses to name a task without an id.
        """
        if admitted.named:
            key, digest = self._key_of(admitted.task_id), _digest(admitted)
        elif self._by_line:
            key, digest = number, 0
        else:
            return []
        known = self._numbers.get(key)
        if known is not None:
            return self._clash(admitted.task_id or line_key(number), known, file, digest)
        if len(self._digests) < MAX_IDS:
            self._add(key, file, admitted.line, digest)
        return []

    def _key_of(self, task_id: str) -> int:
        """The line whose task gets this id in a run; otherwise the id's hash."""
        if self._by_line and looks_like_a_line(task_id) and line_key(int(task_id)) == task_id:
            return int(task_id)
        return hash(task_id)

    def _add(self, key: int, file: str, line: int, digest: int) -> None:
        if self._files[-1:] != [file]:
            self._files.append(file)
        self._numbers[key] = len(self._digests)
        self._places.extend((len(self._files) - 1, line))
        self._digests.append(digest)

    def _clash(self, key: str, known: int, file: str, digest: int) -> list[str]:
        place, first = self._place(known, file), self._digests[known]
        if first == digest:
            return []  # The same task again, or lines of two files without ids.
        if first and digest:
            return [f"task_id: {key!r} is that of another task, in {place}: give each its own"]
        this, that = ("has this id", "has none") if digest else ("has none", "has this id")
        pair = f"this one {this}, that in {place} {that}"
        wrong = f"task_id: {key!r} would be two tasks, as a run counts lines: {pair}"
        return [f"{wrong}: give each task an id, or none"]

    def _place(self, known: int, file: str) -> str:
        other, line = self._places[2 * known : 2 * known + 2]
        name = self._files[other]
        return f"line {line}" if name == file else f"{name}:{line}"


def _digest(admitted: AdmittedTask) -> int:
    """A digest of what the task asks, independent of key order and explicit defaults."""
    asked = beyond_defaults(admitted.fields)
    return hash(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)) or 1
