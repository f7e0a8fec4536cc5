"""Reads tasks from a file, checked as a whole before the first one is sent, or from stdin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.task_rules import NO_RULES
from agentpipe.errors import TaskError
from agentpipe.sending.checked_tasks import checked_tasks
from agentpipe.sending.task_files import TaskReader, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.admission import AdmittedTask


def read_tasks(file: str, stdin: BinaryIO, rules: TaskRules = NO_RULES) -> Iterable[AdmittedTask]:
    """The tasks of a JSON Lines, JSON or benchmark file; ``-`` is stdin.

    ``rules`` are those of the collection that receives them. In a document, a task's ``line`` is
    its number, since one line can hold many tasks.

    Raises:
        ConfigError: With all problems of the file.
        TaskError: On stdin, at the first problem.
    """
    if file == "-":
        return _lines(stdin, rules)
    path = Path(file)
    if path.suffix.lower() in {".yaml", ".yml"}:
        from agentpipe.sending.benchmarks import benchmark_tasks

        return _numbered(benchmark_tasks(path, rules))
    tasks = checked_tasks(path, rules)
    return _numbered(tasks) if isinstance(tasks, list) else tasks


def _numbered(tasks: Iterable[AdmittedTask]) -> list[AdmittedTask]:
    return [replace(task, line=number) for number, task in enumerate(tasks, 1)]


def _lines(stdin: BinaryIO, rules: TaskRules) -> Iterator[AdmittedTask]:
    reader = TaskReader(rules)
    for entry in read_lines("stdin", stdin):
        task, found = reader.of_line(entry)
        if task is None or found:
            raise TaskError(*map(str, found))
        yield task
