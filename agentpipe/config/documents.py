"""Documents checked against a schema: the valid part, and every mistake with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.config.schema import (
    NO_KIND,
    NOT_A_BENCHMARK,
    NOT_A_COLLECTION,
    NOT_AN_AGENT_CONFIG,
)
from agentpipe.config.validation import InvalidValueError
from agentpipe.config.values import shown
from agentpipe.config.yaml_source import Document, KeyPath, label, load_documents
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.config.validation import Schema

_OF_ANOTHER_KIND = (NOT_A_COLLECTION, NOT_A_BENCHMARK, NOT_AN_AGENT_CONFIG)

# A document, and the valid part of its spec.
CheckedDocument = tuple[Document, dict[str, Any]]


def read_documents(
    path: Path, schema: Schema, wanted: Callable[[Document], bool] = lambda _: True
) -> tuple[list[CheckedDocument], list[Problem]]:
    """The wanted documents of a file, each with its valid part, and all problems."""
    checked, problems = [], []
    for document in filter(wanted, load_documents(path)):
        spec, found = _check(schema, document)
        checked.append((document, spec))
        problems += found
    return checked, [*problems, *_repeated_names(checked)]


def _check(schema: Schema, document: Document) -> tuple[dict[str, Any], list[Problem]]:
    if isinstance(document.data, dict) and not document.data.keys() & {"kind", "spec"}:
        return {}, [problem_at(document, ("kind",), NO_KIND)]
    try:
        return schema(document.data)["spec"], []
    except InvalidValueError as error:
        mistakes, valid = error.mistakes, error.valid
    others = [each for each in mistakes if each[0] == ("kind",) and each[1] in _OF_ANOTHER_KIND]
    if others:  # Problems with its other keys would only distract.
        mistakes, valid = others, {}
    spec = valid.get("spec")
    problems = [problem_at(document, path, text) for path, text in mistakes]
    return spec if isinstance(spec, dict) else {}, problems


def _repeated_names(checked: list[CheckedDocument]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for document, spec in checked:
        name, path = spec.get("name"), ("spec", "name")
        if name in first:
            message = (
                f"the name {shown(name)} is already used in line {first[name]}: choose another"
            )
            yield problem_at(document, path, message)
        elif name is not None:
            first[name] = document.line_of(path)


def problem_at(document: Document, path: KeyPath, message: str) -> Problem:
    """A problem with the line of ``path``, or of the closest enclosing part."""
    place = f"{label(path)}: " if path else ""
    return Problem(place + message, document.file, document.line_of(path))


def raise_problems(problems: list[Problem]) -> None:
    """Raise the problems, if there are any.

    Raises:
        ConfigError: Lists all of them, in the file's order.
    """
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
