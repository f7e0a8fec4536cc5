"""The single task in a line of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.paths import shown_path
from agentpipe.errors import ConfigError, Problem
from agentpipe.sending.checked_tasks import entries_in
from agentpipe.sending.task_files import entries_of, is_document, read_document, task_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.config.task_rules import TaskRules
    from agentpipe.core.task import Task
    from agentpipe.sending.task_files import FileEntry


def task_at(place: str, rules: TaskRules) -> Task:
    """The task at ``FILE:LINE``; without a line, the first one.

    In a JSON document a line belongs to the last task that begins there or before.

    Raises:
        ConfigError: There is no such task, or it is invalid.
    """
    file, line = _file_and_line(place)
    entry = _entry_at(Path(file), line)
    if entry is None:
        where = "no task in it" if line is None else f"no task in line {line}"
        raise ConfigError(Problem(where, shown_path(Path(file))))
    admitted, problems = task_of(entry, rules)
    if admitted is None or problems:
        raise ConfigError(problems)
    return admitted.task


def _file_and_line(place: str) -> tuple[str, int | None]:
    file, colon, line = place.rpartition(":")
    if colon and line.isascii() and line.isdigit():
        return file, int(line)
    return place, None


def _entry_at(path: Path, line: int | None) -> FileEntry | None:
    found = None
    for entry in _entries(path):
        if line is None or entry.line == line:
            return entry
        if entry.line and entry.line > line:
            break
        found = entry
    return found if found and line is not None and is_document(path) else None


def _entries(path: Path) -> Iterable[FileEntry]:
    return entries_in(path) if path.exists() else entries_of(read_document(path))
