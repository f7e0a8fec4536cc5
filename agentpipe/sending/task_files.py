"""Task files: one JSON document, or a task per line; each mistake with its line."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from agentpipe.config.paths import shown_path
from agentpipe.config.task_rules import NO_RULES
from agentpipe.config.yaml_source import SAVE_AS_UTF8, WIDE, is_wide, read_text
from agentpipe.errors import ConfigError, Problem, TaskError
from agentpipe.sending.admission import examine
from agentpipe.sending.task_ids import TaskIds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sized
    from pathlib import Path

    from agentpipe.config.task_rules import TaskRules
    from agentpipe.config.yaml_source import KeyPath
    from agentpipe.sending.admission import AdmittedTask

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
MAX_TASKS = 200_000
# Limits of the values parsed here, and of those whose line is kept.
MAX_PARTS, MAX_LINED = 2_000_000, 500_000
MAX_LINE_BYTES = 64 * 1024 * 1024

# Deep enough for a list of tasks with their evaluators' keys.
_LINED_DEPTH = 4
_PLACE = re.compile(r"\w+(?:\.\w+|\[\d+\])*")
_STEP = re.compile(r"\[(\d+)\]|(\w+)")
_UNKNOWN = re.compile(r"unknown key '([^']*)'")
# An integer beyond 64 bits has at least as many digits.
_LONG_NUMBER = re.compile(rb"\d{19}")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a file: a task, if it is valid.

    Attributes:
        error: Why it cannot be read; it has no data then.
        lines: The line of each of its parts.
    """

    data: Any
    file: str
    line: int
    error: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict, repr=False)

    def problem(self, message: str) -> Problem:
        """A problem at the part that the message starts with, as ``evaluators[0]: op: ...``."""
        unknown = _UNKNOWN.match(message)
        path: KeyPath = (unknown[1],) if unknown else ()
        for words in message.split(": "):
            longer = (*path, *_parts(words))
            if longer == path or longer not in self.lines:
                break
            path = longer
        return Problem(message, self.file, self.lines.get(path, self.line))


class TaskReader:
    """Makes tasks of what files hold, in their order."""

    def __init__(self, rules: TaskRules = NO_RULES) -> None:
        """Read for the collection with these rules."""
        self._rules, self._ids, self._in_documents = rules, TaskIds(rules), 0

    def of_line(self, entry: Entry) -> tuple[AdmittedTask | None, list[Problem]]:
        """The task of a line, with an id, and its problems."""
        return self._task_of(entry, entry.line)

    def of_document(self, entry: Entry) -> tuple[AdmittedTask | None, list[Problem]]:
        """The same of a part of a JSON document: many may stand in one line."""
        self._in_documents += 1
        return self._task_of(entry, self._in_documents)

    def _task_of(self, entry: Entry, number: int) -> tuple[AdmittedTask | None, list[Problem]]:
        if entry.error:
            return None, [entry.problem(entry.error)]
        admitted, messages = examine(entry.data, self._rules)
        if admitted is not None:
            admitted = replace(admitted, line=entry.line)
            messages = [*messages, *self._ids.problems(admitted, entry.file, number)]
        return admitted, [entry.problem(message) for message in messages]


def task_of(entry: Entry, rules: TaskRules = NO_RULES) -> tuple[AdmittedTask | None, list[Problem]]:
    """One task alone, with an id, and its problems."""
    return TaskReader(rules).of_line(entry)


def load_tasks(path: Path, reader: TaskReader | None = None) -> list[AdmittedTask]:
    """All tasks of a JSON document.

    Raises:
        ConfigError: With all that is wrong with it.
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
    """Whether a file is one JSON document, by its name and then by its lines."""
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


def read_document(path: Path) -> Entry:
    """Read a JSON document.

    Raises:
        ConfigError: It cannot be read, or is not JSON.
    """
    file = shown_path(path)
    reader = _Reader(read_text(path, MAX_DOCUMENT_BYTES), file)
    data = reader.read()
    return Entry(data, file, reader.lines[()], lines=reader.lines)


def entries_of(whole: Entry) -> list[Entry]:
    """The items of a list; otherwise the value itself."""
    if not isinstance(whole.data, list):
        return [whole]
    lines: list[dict[KeyPath, int]] = [{} for _ in whole.data]
    for (index, *rest), line in ((path, line) for path, line in whole.lines.items() if path):
        lines[int(index)][tuple(rest)] = line
    return [
        Entry(item, whole.file, lines[index][()], lines=lines[index])
        for index, item in enumerate(whole.data)
    ]


class _RefusedError(ValueError):
    """Valid JSON that a task must not contain."""


class _Reader:
    """Parses the outer levels itself, to note the line of each part; the decoder does the rest."""

    def __init__(self, text: str, file: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text, self._file = text, file
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_exact
        )
        self._seen = (0, 1)  # A position and its line.
        self._parts = 0

    def read(self) -> Any:
        try:
            value, end = self._value(0, ())
            if (end := self._past_space(end)) < len(self._text):
                raise json.JSONDecodeError("data after the end", self._text, end)  # noqa: TRY301
        except json.JSONDecodeError as error:
            message = f"not JSON: {error.msg.lower()} (column {error.colno})"
            problem = Problem(message, self._file, error.lineno)
        except RecursionError:
            problem = Problem("not a task: nested too deeply", self._file, self._seen[1])
        except _RefusedError as error:
            problem = Problem(f"not taken: {error}", self._file, self._seen[1])
        else:
            return value
        raise ConfigError(problem)

    def _value(self, start: int, path: KeyPath) -> tuple[Any, int]:
        start = self._past_space(start)
        self._note(start, path)
        opening = self._text[start : start + 1]
        if opening == "{" and len(path) < _LINED_DEPTH:
            return self._object(start + 1, path)
        if opening == "[" and len(path) < _LINED_DEPTH:
            return self._list(start + 1, path)
        return self._decoder.raw_decode(self._text, start)

    def _object(self, start: int, path: KeyPath) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        while not self._closes(start, "}"):
            start = self._past_space(self._next(start, found))
            name, end = self._key(start, path, found)
            found[name], start = self._value(self._expect(end, ":"), (*path, name))
        return found, self._past_space(start) + 1

    def _key(self, start: int, path: KeyPath, found: dict[str, Any]) -> tuple[str, int]:
        line = self._line(start)
        name, end = self._decoder.raw_decode(self._text, start)
        if not isinstance(name, str):
            raise json.JSONDecodeError("a key must be a string", self._text, start)
        if name in found:
            first = self.lines.get((*path, name), line)
            raise _RefusedError(f"duplicate key {name!r:.60}, first in line {first}: keep one")
        self._note(start, (*path, name))
        return name, end

    def _list(self, start: int, path: KeyPath) -> tuple[list[Any], int]:
        items: list[Any] = []
        while not self._closes(start, "]"):
            item, start = self._value(self._next(start, items), (*path, len(items)))
            items.append(item)
        return items, self._past_space(start) + 1

    def _next(self, start: int, before: Sized) -> int:
        """Skip the comma before every item but the first."""
        return self._expect(start, ",") if before else start

    def _expect(self, start: int, mark: str) -> int:
        start = self._past_space(start)
        if not self._text.startswith(mark, start):
            raise json.JSONDecodeError(f"{mark!r} is missing", self._text, start)
        return start + 1

    def _closes(self, start: int, mark: str) -> bool:
        return self._text.startswith(mark, self._past_space(start))

    def _past_space(self, start: int) -> int:
        match = _SPACE.match(self._text, start)
        return match.end() if match else start

    def _note(self, position: int, path: KeyPath) -> None:
        line = self._line(position)
        self._parts += 1
        if self._parts > MAX_PARTS or (len(path) == 1 and path[0] == MAX_TASKS):
            raise _RefusedError("too much for one JSON document: write a task per line, as .jsonl")
        if len(path) <= 1 or self._parts < MAX_LINED:
            self.lines.setdefault(path, line)

    def _line(self, position: int) -> int:
        """The line of a position; positions must not go back."""
        before, line = self._seen
        self._seen = (position, line + self._text.count("\n", before, position))
        return self._seen[1]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"duplicate key {twice!r:.60}: keep one")
    return found


def _no_constant(name: str) -> None:
    raise _RefusedError(f"{name} is not JSON: write null or a number")


def _exact(digits: str) -> int:
    """An integer; others read one beyond 64 bits as a float, and its last digits are lost."""
    if len(digits) > len(str(-(2**63))) or not -(2**63) <= int(digits) < 2**64:
        raise _RefusedError(f"{digits[:40]} has more than 64 bits: write it as a string")
    return int(digits)


def _parts(words: str) -> tuple[str | int, ...]:
    if not _PLACE.fullmatch(words):
        return ()
    found = _STEP.findall(words)
    return tuple(int(index) if index else name for index, name in found)


# A task per line.


def read_lines(file: str, stream: BinaryIO) -> Iterator[Entry]:
    """Read each line that is not blank."""
    number = 0
    while line := next_line(stream):
        number += 1
        if number == 1 and is_wide(line):
            yield Entry(None, file, number, WIDE)
            return
        if not line.strip():
            continue
        try:
            yield Entry(_parsed(line), file, number)
        except TaskError as error:
            yield Entry(None, file, number, str(error))


def next_line(stream: BinaryIO) -> bytes:
    """Read the next line; of one over the limit only the first part."""
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
    if _LONG_NUMBER.search(line):
        _refuse_inexact(line)
    return data


def _refuse_inexact(line: bytes) -> None:
    try:
        json.loads(line.removeprefix(BOM_UTF8), parse_int=_exact)
    except _RefusedError as error:
        raise TaskError(f"not taken: {error}") from error


def _why_not_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    """Without the line number, which is that of a one-line text."""
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return f"byte {bad.start + 1} is not UTF-8: {SAVE_AS_UTF8}"
    return f"{error.msg} (column {error.colno})"
