"""Check documents against a schema: returns the valid part, and every mistake with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marshmallow import Schema, ValidationError

from agentpipe.config.schema import (
    NO_KIND,
    NOT_A_BENCHMARK,
    NOT_A_COLLECTION,
    NOT_AN_AGENT_CONFIG,
)
from agentpipe.config.values import shown
from agentpipe.config.yaml_source import Document, KeyPath, label, load_documents
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A document, and the valid part of its spec.
CheckedDocument = tuple[Document, dict[str, Any]]


def read_documents(
    path: Path, schema: Schema, wanted: Callable[[Document], bool] = lambda _: True
) -> tuple[list[CheckedDocument], list[Problem]]:
    """Return the wanted documents of a file, each with its valid part, and all problems."""
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
        return schema.load(document.data)["spec"], []
    except ValidationError as error:
        # Not chained: the error refers to the whole document, including credentials.
        messages: Any = error.messages
        valid = error.valid_data
    if messages.get("kind") in ([NOT_A_COLLECTION], [NOT_A_BENCHMARK], [NOT_AN_AGENT_CONFIG]):
        # Problems with its other keys would only distract.
        messages, valid = {"kind": messages["kind"]}, {}
    problems = [problem_at(document, path, text) for path, text in _flat(messages)]
    spec = valid.get("spec") if isinstance(valid, dict) else None
    return spec if isinstance(spec, dict) else {}, problems


def _flat(messages: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(messages, list):
        yield from ((path, text) for text in messages)
        return
    for key, inner in messages.items():
        yield from _flat(inner, path if key == "_schema" else (*path, key))


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
    """Return a problem at the line of ``path``, or of its closest enclosing part."""
    place = f"{label(path)}: " if path else ""
    return Problem(place + message, document.file, document.line_of(path))


def raise_problems(problems: list[Problem]) -> None:
    """Raise the problems, if there are any.

    Raises:
        ConfigError: Lists all of them, in file order.
    """
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
