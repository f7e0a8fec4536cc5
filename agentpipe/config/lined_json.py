"""LinedReader: reads a JSON document and the line of each of its parts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sized

    from agentpipe.config.yaml_source import KeyPath

MAX_TASKS = 200_000
# Limits for parsed values, and for values whose line is kept.
MAX_PARTS, MAX_LINED = 2_000_000, 500_000

# Deep enough for a list of tasks with their evaluators' keys.
_LINED_DEPTH = 4
_SPACE = re.compile(r"[ \t\r\n]*")
# Half of a character that is written as a pair; then all escapes, to find a half that is alone.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<alone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


class RefusedError(ValueError):
    """Valid JSON that no file of ours may contain: readers differ on what it says."""


class LinedReader:
    """Parses the outer levels itself, to note each part's line; the decoder does the rest."""

    def __init__(self, text: str, file: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text, self._file = text, file
        self._decoder = json.JSONDecoder(
            object_pairs_hook=once, parse_constant=_no_constant, parse_int=exact
        )
        self._seen = (0, 1)  # A position and its line.
        self._parts = 0

    def read(self) -> Any:
        """The document's value.

        Raises:
            ConfigError: It is not JSON, or contains what readers of JSON take differently.
        """
        try:
            self._refuse_halves()
            value, end = self._value(0, ())
            if (end := self._past_space(end)) < len(self._text):
                raise json.JSONDecodeError("data after the end", self._text, end)  # noqa: TRY301 - caught below, like the parser's own errors
        except json.JSONDecodeError as error:
            message = f"not JSON: {error.msg.lower()} (column {error.colno})"
            problem = Problem(message, self._file, error.lineno)
        except RecursionError:
            problem = Problem("nested too deeply", self._file, self._seen[1])
        except RefusedError as error:
            problem = Problem(f"not taken: {error}", self._file, self._seen[1])
        else:
            return value
        raise ConfigError(problem)

    def refusal(self, message: str, path: KeyPath = ()) -> ConfigError:
        """The error that a part of the document is wrong, with its line."""
        return ConfigError(Problem(message, self._file, self.lines.get(path, 0)))

    def _refuse_halves(self) -> None:
        if not _HALF.search(self._text):
            return
        for escape in _ESCAPE.finditer(self._text):
            if escape["alone"]:
                message = "a lone surrogate, half a character: write the whole character"
                raise json.JSONDecodeError(message, self._text, escape.start())

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
            raise RefusedError(f"duplicate key {name!r:.60}, first in line {first}: keep one")
        self._note(start, (*path, name))
        return name, end

    def _list(self, start: int, path: KeyPath) -> tuple[list[Any], int]:
        items: list[Any] = []
        while not self._closes(start, "]"):
            item, start = self._value(self._next(start, items), (*path, len(items)))
            items.append(item)
        return items, self._past_space(start) + 1

    def _next(self, start: int, before: Sized) -> int:
        """Skip the comma before every item except the first."""
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
            raise RefusedError("too much for one JSON document: write a task per line, as .jsonl")
        if len(path) <= 1 or self._parts < MAX_LINED:
            self.lines.setdefault(path, line)

    def _line(self, position: int) -> int:
        """The line of a position; positions must not decrease."""
        before, line = self._seen
        self._seen = (position, line + self._text.count("\n", before, position))
        return self._seen[1]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError(f"duplicate key {twice!r:.60}: keep one")
    return found


def _no_constant(name: str) -> None:
    raise RefusedError(f"{name} is not JSON: write null or a number")


def exact(digits: str) -> int:
    """Parse an integer; refuse one beyond 64 bits, which other readers round to a float."""
    if len(digits) > len(str(-(2**63))) or not -(2**63) <= int(digits) < 2**64:
        # The digits can be a credential, in the ``env`` of a server.
        raise RefusedError("a number has more than 64 bits: write it as a string")
    return int(digits)
