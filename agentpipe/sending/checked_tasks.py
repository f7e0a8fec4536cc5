"""The tasks of a file, each validated once, and all before the first is sent."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import orjson

from agentpipe.config.paths import shown_path, why_unreadable
from agentpipe.config.task_rules import NO_RULES
from agentpipe.errors import ConfigError, Problem
from agentpipe.sending.admission import AdmittedTask
from agentpipe.sending.task_files import (
    TaskReader,
    entries_of,
    is_document,
    load_tasks,
    read_document,
    read_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.task_files import FileEntry


def checked_tasks(path: Path, rules: TaskRules = NO_RULES) -> Iterable[AdmittedTask]:
    """Every task of a file; a file with one task per line is spooled to a temporary file.

    Raises:
        ConfigError: The file cannot be read, or with everything that is wrong with it.
    """
    reader = TaskReader(rules)
    return load_tasks(path, reader) if is_document(path) else _spooled(path, reader)


def check_file(path: Path, rules: TaskRules = NO_RULES) -> None:
    """Read and check a whole task file.

    Raises:
        ConfigError: The file cannot be read, or with everything that is wrong with it.
    """
    reader = TaskReader(rules)
    task_of = reader.of_document if is_document(path) else reader.of_line
    problems = [problem for each in entries_in(path) for problem in task_of(each)[1]]
    if problems:
        raise ConfigError(problems)


def entries_in(path: Path) -> Iterable[FileEntry]:
    """The unchecked entries of a task file.

    Raises:
        ConfigError: It cannot be read.
    """
    return entries_of(read_document(path)) if is_document(path) else _lines(path)


def _spooled(path: Path, reader: TaskReader) -> Iterator[AdmittedTask]:
    spool, problems = _Spool(), []
    for entry in _lines(path):
        task, found = reader.of_line(entry)
        problems += found
        if task is not None and not problems:
            spool.add(task)
    if problems:
        raise ConfigError(problems)
    return spool.read()


def _lines(path: Path) -> Iterator[FileEntry]:
    try:
        with path.open("rb") as stream:
            yield from read_lines(shown_path(path), stream)
    except OSError as error:
        raise ConfigError(Problem(why_unreadable(error), shown_path(path))) from error


class _Spool:
    """Admitted tasks on disk: a file can exceed the memory. The system removes the spool."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 - closed with the spool, read or not

    def __del__(self) -> None:
        self._file.close()

    def add(self, task: AdmittedTask) -> None:
        # Encoded JSON contains no line breaks.
        sign = b"+" if task.named else b"-"
        self._file.write(b"%b%d %b\n" % (sign, task.line, task.encoded))

    def read(self) -> Iterator[AdmittedTask]:
        self._file.seek(0)
        for line in self._file:
            head, _, payload = line[:-1].partition(b" ")
            fields = orjson.loads(payload)
            del fields["schema"]
            yield AdmittedTask(fields, payload, head[:1] == b"+", int(head[1:]))
