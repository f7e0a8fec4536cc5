"""Ids of a file's tasks: one that means two tasks would leave one of them unsent."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import orjson

from agentpipe.sending.run_tasks import line_key, looks_like_a_line

if TYPE_CHECKING:
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.admission import AdmittedTask

# Of larger files only so many are compared: each takes some 150 bytes.
MAX_IDS = 500_000


class TaskIds:
    """Compares each task of a file, or of a benchmark's files, with those before it."""

    def __init__(self, rules: TaskRules) -> None:
        self._by_line = rules.plan is not None
        self._files: list[str] = []
        # The number of each id's first task; then, by number, the file and the line in which it
        # stands, and a digest of what it asks: 0 of one that has its id by its line.
        self._numbers: dict[int, int] = {}
        self._places, self._digests = array("q"), array("q")

    def problems(self, admitted: AdmittedTask, file: str, number: int) -> list[str]:
        """Why the id cannot be the task's, a sentence each; the same task again is a duplicate.

        ``number`` is what a run calls a task without an id by.
        """
        if not (admitted.named or self._by_line):
            return []
        key = admitted.task_id if admitted.named else line_key(number)
        digest = _digest(admitted) if admitted.named else 0
        known = self._numbers.get(hash(key))
        if known is not None:
            return self._clash(key, known, file, digest)
        if len(self._digests) < MAX_IDS and (admitted.named or looks_like_a_line(key)):
            self._add(key, file, admitted.line, digest)
        return []

    def _add(self, key: str, file: str, line: int, digest: int) -> None:
        if self._files[-1:] != [file]:
            self._files.append(file)
        self._numbers[hash(key)] = len(self._digests)
        self._places.extend((len(self._files) - 1, line))
        self._digests.append(digest)

    def _clash(self, key: str, known: int, file: str, digest: int) -> list[str]:
        place, first = self._place(known, file), self._digests[known]
        if first == digest:
            return []  # Or, without ids, tasks of two files: each counts its own.
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
    """Of what the task asks, in whatever order."""
    return hash(orjson.dumps(admitted.fields, option=orjson.OPT_SORT_KEYS)) or 1
