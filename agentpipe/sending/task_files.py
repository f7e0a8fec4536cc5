"""Task files: one JSON document, or one task per line; mistakes are reported with their line."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from agentpipe.config.lined_json import LinedReader, RefusedError, exact, once
from agentpipe.config.paths import shown_path
from agentpipe.config.task_rules import NO_RULES
from agentpipe.config.yaml_source import SAVE_AS_UTF8, WIDE, is_wide, read_text
from agentpipe.errors import ConfigError, Problem, TaskError
from agentpipe.sending.admission import examine
from agentpipe.sending.task_ids import TaskIds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from agentpipe.config.task_rules import TaskRules
    from agentpipe.config.yaml_source import KeyPath
    from agentpipe.sending.admission import AdmittedTask

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024

_PLACE = re.compile(r"\w+(?:\.\w+|\[\d+\])*")
_STEP = re.compile(r"\[(\d+)\]|(\w+)")
_UNKNOWN = re.compile(r"unknown key '([^']*)'")
# An integer beyond 64 bits has at least this many digits. A regex takes ten times as long.
_LONG_NUMBER = b"0" * 19
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
# What JSON can write in another way than `orjson.dumps`: the end of a key, or either of its signs.
_OTHER_KEY_ENDS = re.compile(rb'"[ \t\r]+:|\\u00(?:22|3[aA])')
_KEY_END = b'":'


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One value of a file: a task, if it is valid.

    Attributes:
        error: Why it cannot be read; then it has no data.
        lines: The line of each of its parts.
    """

    data: Any
    file: str
    line: int
    error: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict, repr=False)

    def problem(self, message: str) -> Problem:
        """A problem at the part that the message names first, as in ``evaluators[0]: op: ...``."""
        unknown = _UNKNOWN.match(message)
        path: KeyPath = (unknown[1],) if unknown else ()
        for words in message.split(": "):
            longer = (*path, *_parts(words))
            if longer == path or longer not in self.lines:
                break
            path = longer
        return Problem(message, self.file, self.lines.get(path, self.line))


class TaskReader:
    """Makes tasks from the entries of files, in their order."""

    def __init__(self, rules: TaskRules = NO_RULES) -> None:
        """Use the rules of the collection that the tasks are for."""
        self._rules, self._ids, self._in_documents = rules, TaskIds(rules), 0

    def of_line(self, entry: FileEntry) -> tuple[AdmittedTask | None, list[Problem]]:
        """The task of a line, with an id, and its problems."""
        return self._task_of(entry, entry.line)

    def of_document(self, entry: FileEntry) -> tuple[AdmittedTask | None, list[Problem]]:
        """Like ``of_line`` for a part of a JSON document: many can share one line."""
        self._in_documents += 1
        return self._task_of(entry, self._in_documents)

    def _task_of(self, entry: FileEntry, number: int) -> tuple[AdmittedTask | None, list[Problem]]:
        if entry.error:
            return None, [entry.problem(entry.error)]
        admitted, messages = examine(entry.data, self._rules, entry.line)
        if admitted is not None:
            messages = [*messages, *self._ids.problems(admitted, entry.file, number)]
        return admitted, [entry.problem(message) for message in messages]


def task_of(
    entry: FileEntry, rules: TaskRules = NO_RULES
) -> tuple[AdmittedTask | None, list[Problem]]:
    """One task alone, with an id, and its problems."""
    return TaskReader(rules).of_line(entry)


def load_tasks(path: Path, reader: TaskReader | None = None) -> list[AdmittedTask]:
    """All tasks of a JSON document.

    Raises:
        ConfigError: With everything that is wrong with it.
    """
    reader = reader or TaskReader()
    tasks, problems = [], []
    for entry in entries_of(read_document(path)):
        task, found = reader.of_document(entry)
        problems += found
        if task is not None:
            tasks.append(task)
    if problems:
        raise ConfigError(problems)
    return tasks


def is_document(path: Path) -> bool:
    """Whether a file is one JSON document, by its name, then by its first lines."""
    if path.suffix.lower() != ".json":
        return False
    try:
        with path.open("rb") as stream:
            lines = list(islice(filter(bytes.strip, iter(lambda: next_line(stream), b"")), 2))
    except OSError:
        return True  # Reading it reports why.
    return len(lines) < len(("first", "second")) or not all(map(_is_whole, lines))


def _is_whole(line: bytes) -> bool:
    try:
        _json(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _json(line: bytes) -> Any:
    return orjson.loads(line.removeprefix(BOM_UTF8))


# One JSON document.


def read_document(path: Path) -> FileEntry:
    """Read a JSON document.

    Raises:
        ConfigError: It cannot be read, or is not JSON.
    """
    file = shown_path(path)
    reader = LinedReader(read_text(path, MAX_DOCUMENT_BYTES), file)
    data = reader.read()
    return FileEntry(data, file, reader.lines[()], lines=reader.lines)


def entries_of(whole: FileEntry) -> list[FileEntry]:
    """The items of a list; otherwise the value itself."""
    if not isinstance(whole.data, list):
        return [whole]
    lines: list[dict[KeyPath, int]] = [{} for _ in whole.data]
    for (index, *rest), line in ((path, line) for path, line in whole.lines.items() if path):
        lines[int(index)][tuple(rest)] = line
    return [
        FileEntry(item, whole.file, lines[index][()], lines=lines[index])
        for index, item in enumerate(whole.data)
    ]


def _parts(words: str) -> tuple[str | int, ...]:
    if not _PLACE.fullmatch(words):
        return ()
    found = _STEP.findall(words)
    return tuple(int(index) if index else name for index, name in found)


# A task per line.


def read_lines(file: str, stream: BinaryIO) -> Iterator[FileEntry]:
    """Read each line that is not blank."""
    number = 0
    while line := next_line(stream):
        number += 1
        if number == 1 and is_wide(line):
            yield FileEntry(None, file, number, WIDE)
            return
        if not line.strip():
            continue
        try:
            yield FileEntry(_parsed(line), file, number)
        except TaskError as error:
            yield FileEntry(None, file, number, str(error))


def next_line(stream: BinaryIO) -> bytes:
    """Read the next line; of a line over the limit, return only the first part."""
    line = part = stream.readline(MAX_LINE_BYTES)
    while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
        part = stream.readline(MAX_LINE_BYTES)
    return line


def _parsed(line: bytes) -> Any:
    if len(line) >= MAX_LINE_BYTES:
        raise TaskError(f"longer than {MAX_LINE_BYTES:,} bytes: is it one task per line?")
    try:
        data = _json(line)
    except orjson.JSONDecodeError as error:
        raise TaskError(f"not JSON: {_why_not_json(line, error)}") from error
    if _LONG_NUMBER in line.translate(_DIGITS_ALIKE) or _may_repeat_keys(line, data):
        _refuse_lossy(line)
    return data


def _may_repeat_keys(line: bytes, data: Any) -> bool:
    """Whether a key can be there twice: the fast parser would silently keep the last."""
    try:
        kept = orjson.dumps(data).count(_KEY_END)
    except orjson.JSONEncodeError:  # It nests too deeply.
        return True
    return line.count(_KEY_END) != kept or _OTHER_KEY_ENDS.search(line) is not None


def _refuse_lossy(line: bytes) -> None:
    """Refuse what the fast parser changes silently: long numbers, and a key that is there twice."""
    try:
        json.loads(line.removeprefix(BOM_UTF8), parse_int=exact, object_pairs_hook=once)
    except RefusedError as error:
        raise TaskError(f"not taken: {error}") from error
    except RecursionError as error:
        raise TaskError("not a task: nested too deeply") from error


def _why_not_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    """The reason without a line number, which would always be 1."""
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return f"byte {bad.start + 1} is not UTF-8: {SAVE_AS_UTF8}"
    return f"{error.msg} (column {error.colno})"
