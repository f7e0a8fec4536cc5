"""YAML documents as plain data, with the line of each part.

Messages name lines, keys and types, never a value: it can be a credential.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from agentpipe.config.paths import shown_path, why_unreadable
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

KeyPath = tuple[str | int, ...]

MAX_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 50
MAX_NODES = 100_000

# PyYAML takes quadratic time for a number such as 1:1:1:1...
_MAX_NUMBER_CHARS = 100
_KIND_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}
_PREFIX = "tag:yaml.org,2002:"
_MERGE = _PREFIX + "merge"
_TEXTS = {_PREFIX + "str", _MERGE}
_INT = _PREFIX + "int"
_NUMBERS = {_PREFIX + name for name in ("int", "float", "bool", "null")}
_CONTAINERS = {_PREFIX + "map", _PREFIX + "seq"}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
SAVE_AS_UTF8 = "save the file as UTF-8"
WIDE = f"UTF-16 or UTF-32, not UTF-8: {SAVE_AS_UTF8}"
_WIDEST = 4  # bytes of a character
# The beginnings of PyYAML's messages for the mistakes that people make, in their words.
_MISTAKES = {
    "found character '\\t'": "a tab before the text: indent with spaces",
    "expected <block end>": "not indented like the lines above: align it",
    "mapping values are not allowed": "a `:` too many, or not indented like the lines above: "
    "put quotes around the value, or align the line",
    "expected ',' or": "a `[` or `{` is not closed: close it, or put quotes around the value",
    "found unexpected end of stream": "a quotation mark is not closed before it: close it",
}
_QUOTED_NAME = re.compile(r" '(?!<)[^'\s]{2,}'")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file.

    Attributes:
        data: Dicts with string keys, lists, strings, numbers, booleans and None; dates as strings.
        line: Its first line, from 1.
        lines: The line of each part by its path, such as ``("spec", "context", 0, "env")``.
    """

    data: Any = field(repr=False)
    file: str
    line: int
    lines: Mapping[KeyPath, int] = field(repr=False)

    def line_of(self, path: KeyPath) -> int:
        """Return the line of ``path``, or of its closest enclosing part."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return self.line


def load_documents(path: Path) -> tuple[Document, ...]:
    """Read all non-empty documents of a file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or contains rejected syntax.
    """
    file = shown_path(path)
    loader = _loader(read_text(path), file)
    builder = _Builder(loader)
    built = [builder.document(node) for node in _compose(loader)]
    if builder.problems:
        raise ConfigError(sorted(builder.problems, key=lambda problem: problem.line))
    documents = tuple(document for document in built if document.data is not None)
    if not documents:
        raise ConfigError(Problem("contains no document: write at least one", file, 1))
    return documents


def kind_of(value: Any) -> str:
    """Return the type of a value, for messages."""
    return _KIND_NAMES.get(type(value), type(value).__name__)


def kind_in(document: Document) -> str:
    """Return a document's ``kind`` in lower case; empty if it has none."""
    kind = document.data.get("kind") if isinstance(document.data, dict) else ""
    return kind.lower() if isinstance(kind, str) else ""


def label(path: KeyPath) -> str:
    """Format a path as ``spec.context[0].env``; an unusual key is shown as ``?``.

    A missing space, as in ``{TOKEN:secret}``, makes the credential part of the key.
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def _shown(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else "?"


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a file as text.

    Raises:
        ConfigError: It cannot be read, is too large or not UTF-8.
    """
    # Raised outside the except blocks, so that no error refers to the bytes.
    file = shown_path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
        if len(data) <= max_bytes and not is_wide(data):
            return data.decode("utf-8-sig")
        too_large = f"larger than {max_bytes // 1024**2} MB: split it"
        problem = Problem(too_large if len(data) > max_bytes else WIDE, file)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(f"not UTF-8: {SAVE_AS_UTF8}", file, line)
    except (OSError, ValueError) as error:
        problem = Problem(why_unreadable(error), file.replace("\0", "?"))
    raise ConfigError(problem)


def is_wide(data: bytes) -> bool:
    """Whether the data starts like UTF-16 or UTF-32."""
    return data.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 < data[:4].count(0) < _WIDEST


class _Loader(yaml.SafeLoader):
    """Composes nodes, and stops before PyYAML recurses too deeply."""

    # JSON has no dates, and a lone "=" has no constructor: both stay strings.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name, a class attribute there too
        first: [rule for rule in rules if rule[0] not in {_PREFIX + "timestamp", _PREFIX + "value"}]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file = file
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # PyYAML has no types
        # One level more than for containers, for the values in the innermost container.
        _check_depth(self._depth, MAX_DEPTH + 1, self.file, line)
        _check_count(self._count, self.file, line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _check_depth(depth: int, limit: int, file: str, line: int) -> None:
    if depth > limit:
        raise ConfigError(Problem(f"nested deeper than {MAX_DEPTH} levels: flatten it", file, line))


def _check_count(count: int, file: str, line: int) -> None:
    if count > MAX_NODES:
        message = f"more than {MAX_NODES:,} keys and values, aliases expanded: split the file"
        raise ConfigError(Problem(message, file, line))


def _loader(text: str, file: str) -> _Loader:
    try:
        return _Loader(text, file)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
    raise ConfigError(Problem("contains a control character: remove it", file, line))


def _compose(loader: _Loader) -> list[yaml.Node]:
    """Return all root nodes; errors do not repeat PyYAML's messages, which quote the file."""
    nodes = []
    try:
        while loader.check_node():
            nodes.append(loader.get_node())
    except yaml.MarkedYAMLError as error:
        problem = _syntax_problem(error, loader.file)
    except (ValueError, OverflowError):
        # PyYAML's scanner raises these, for example for an escape beyond Unicode.
        message = "not YAML: a number or escape out of range; fix the line"
        problem = Problem(message, loader.file, loader.line + 1)
    else:
        return [node for node in nodes if node is not None]
    raise ConfigError(problem)


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    for beginning, text in _MISTAKES.items():
        if (error.problem or "").startswith(beginning):
            return Problem(f"not YAML: {text}", file, line)
    reason = _QUOTED_NAME.sub("", error.problem or error.context or "it cannot be parsed")
    remedy = "fix the line, with quotes around strings that contain special characters"
    return Problem(f"not YAML: {reason}; {remedy}", file, line)


class _Builder:
    """Turns nodes into data with aliases expanded; collects the problems it can continue after."""

    def __init__(self, loader: _Loader) -> None:
        self.problems: dict[Problem, None] = {}
        self._loader = loader
        self._lines: dict[KeyPath, int] = {}
        self._around: set[int] = set()
        self._count = 0

    def document(self, node: yaml.Node) -> Document:
        line = node.start_mark.line + 1
        self._lines = {(): line}
        return Document(self._build(node, ()), self._loader.file, line, self._lines)

    def _build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count_one(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _CONTAINERS:
            self._refuse_tag(node)
        with self._inside(node):
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self._part(item, item, (*path, i)) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        entries = self._entries(node).items()
        return {name: self._part(key, value, (*path, name)) for name, (key, value) in entries}

    def _part(self, place: yaml.Node, node: yaml.Node, path: KeyPath) -> Any:
        self._lines[path] = place.start_mark.line + 1
        return self._build(node, path)

    def _entries(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return keys and their nodes; the mapping's own keys win over merged ones."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            self._count_one(key)
            if key.tag == _MERGE:
                merged = self._merged(value) | merged
            elif self._is_key(key, own):
                own[key.value] = (key, value)
        return merged | own

    def _merged(self, node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self._refuse(source, "<< merges mappings only: use the alias of a mapping")
                continue
            with self._inside(source):
                merged = self._entries(source) | merged
        return merged

    def _is_key(self, key: yaml.Node, own: Mapping[str, Any]) -> bool:
        # An integer key becomes a string as written: MCP-Universe's files have such keys.
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (*_TEXTS, _INT):
            remedy = "put it in quotes" if isinstance(key, yaml.ScalarNode) else "write a string"
            self._refuse(key, f"keys must be strings, got {self._key_kind(key)}: {remedy}")
            return False
        self._text(key)
        if key.value in own:
            first = own[key.value][0].start_mark.line + 1
            name = _shown(key.value)
            self._refuse(key, f"duplicate key {name!r}, first in line {first}: keep one")
        return True

    def _key_kind(self, key: yaml.Node) -> str:
        if isinstance(key, yaml.ScalarNode):
            return kind_of(self._scalar(key))
        return "a list" if isinstance(key, yaml.SequenceNode) else "a mapping"

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in _TEXTS:
            return self._text(node)
        if node.tag not in _NUMBERS:
            return self._refuse_tag(node)
        if len(node.value) > _MAX_NUMBER_CHARS:
            return self._refuse(node, "too long for a number: put it in quotes if it is a string")
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, yaml.YAMLError):
            return self._refuse(node, "the value does not fit its tag: remove the tag")

    def _text(self, node: yaml.ScalarNode) -> Any:
        try:
            node.value.encode()
        except UnicodeEncodeError:
            return self._refuse(
                node, "a lone surrogate, half a character: write the whole character"
            )
        return node.value

    @contextmanager
    def _inside(self, node: yaml.Node) -> Iterator[None]:
        line = node.start_mark.line + 1
        if id(node) in self._around:
            problem = Problem("an alias contains itself: remove it", self._loader.file, line)
            raise ConfigError(problem)
        _check_depth(len(self._around) + 1, MAX_DEPTH, self._loader.file, line)
        self._around.add(id(node))
        yield
        self._around.remove(id(node))

    def _count_one(self, node: yaml.Node) -> None:
        self._count += 1
        _check_count(self._count, self._loader.file, node.start_mark.line + 1)

    def _refuse_tag(self, node: yaml.Node) -> None:
        self._refuse(node, "an unknown tag (!...): remove it, or quote a string that starts with !")

    def _refuse(self, node: yaml.Node, message: str) -> None:
        problem = Problem(message, self._loader.file, node.start_mark.line + 1)
        self.problems[problem] = None
